"""Rows are written in another suite's format, written atomically, and nothing is lost without being named."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmpref.data.commands.convert import TARGETS, ConvertReport, ConvertSettings, convert
from mmpref.data.formats import FormatOptions, to_canonical
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError, DataError
from mmpref.records import ImageRef
from tests.unit.data.formats.more_rows import LABELLED
from tests.unit.data.formats.test_formats import NAMED, ROWS

Row = dict[str, Any]
PNG = b"\x89PNG invented"
OF_PAIRS = tuple(name for name in TARGETS if name not in LABELLED)


def row(number: int, **changes: Any) -> Row:
    """A canonical row with one image; ``...`` removes a key."""
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is here?"}]}]
    found: Row = {
        "id": f"r{number}",
        "images": [f"{number}.png"],
        "prompt": prompt,
        "chosen": "A cup.",
        "rejected": f"A cup and {number} dogs.",
        "score_chosen": 4.0,
        "score_rejected": 1.0,
        "meta": {"kind": number},
    }
    found.update(changes)
    return {key: value for key, value in found.items() if value is not ...}


def numbered(rows: list[Row]) -> Iterator[tuple[str, int, Row]]:
    return (("in.jsonl", number, item) for number, item in enumerate(rows, start=1))


def run(tmp_path: Path, to: str, rows: list[Row], **options: Any) -> tuple[ConvertReport, Quarantine, list[Row]]:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    out = tmp_path / "out" / ("pairs.json" if to.startswith("llamafactory") else "pairs.jsonl")
    read_as = options.pop("options", None)
    settings = ConvertSettings(to=to, out=out, **options)
    report = convert(numbered(rows), settings, quarantine=quarantine, options=read_as)
    content = out.read_text(encoding="utf-8")
    written = json.loads(content) if out.suffix == ".json" else [json.loads(line) for line in content.splitlines()]
    assert report.num_pairs == quarantine.num_used == len(written)
    assert quarantine.num_read == quarantine.num_used + len(quarantine)
    assert report.num_quarantined == len(quarantine)
    return report, quarantine, written


def test_the_targets_are_those_that_people_train_with() -> None:
    assert OF_PAIRS == ("canonical", "trl", "llamafactory_alpaca", "llamafactory_sharegpt", "ms_swift")
    assert set(TARGETS) == {*OF_PAIRS, *LABELLED}


@pytest.mark.parametrize("to", OF_PAIRS)
def test_a_round_trip_through_a_file_keeps_the_pairs(to: str, tmp_path: Path) -> None:
    rows = [row(1), row(2, source="cups"), row(3, score_chosen=..., score_rejected=..., meta=...)]
    report, _, written = run(tmp_path, to, rows)
    before = [pair_from_row(item, source="in", line=1) for item in rows]
    again = [pair_from_row(item, source="in", line=1) for found in written for item in to_canonical(found, to)]
    assert again == before
    assert (report.num_rows, report.formats, report.fields_lost) == (3, {"canonical": 3}, {})
    assert "3 rows read, 3 pairs written" in report.summary()


@pytest.mark.parametrize("to", ["canonical", *sorted(LABELLED)])
def test_a_round_trip_through_a_file_keeps_labelled_answers(to: str, tmp_path: Path) -> None:
    single = {"rejected": ..., "score_chosen": ..., "score_rejected": ...}
    rows = [row(1, label=True, **single), row(2, label=False, **single)]
    report, _, written = run(tmp_path, to, rows)
    before = [pair_from_row(item, source="in", line=1) for item in rows]
    again = [pair_from_row(item, source="in", line=1) for found in written for item in to_canonical(found, to)]
    assert again == before
    assert report.fields_lost == {}
    report, quarantine, _ = run(tmp_path / "mixed", to, [*rows, row(3), row(4, **single)])
    assert quarantine.counts == ({} if to == "canonical" else {"no_label": 2})
    assert report.num_pairs == (4 if to == "canonical" else 2)


@pytest.mark.parametrize("to", OF_PAIRS)
def test_what_is_said_to_the_loss_is_written_or_named(to: str, tmp_path: Path) -> None:
    more = {"other_images": [{"bytes": base64.b64encode(PNG).decode()}], "weight": 2.0, "chosen_weight": [[0, 1, 3.0]]}
    report, quarantine, written = run(tmp_path, to, [row(1), row(2, **more)])
    if to == "canonical":
        assert (report.num_pairs, written[1]["weight"], written[1]["other_images"]) == (2, 2.0, more["other_images"])
        return
    assert report.fields_lost == {"other_images": 1, "weight": 1, "chosen_weight": 1}
    assert quarantine.counts == {"cannot_hold_other_images": 1}
    assert "has no place for other_images (1), weight (1), chosen_weight (1)" in report.summary()


@pytest.mark.parametrize("to", OF_PAIRS)
def test_what_the_target_cannot_hold_is_quarantined_and_named(to: str, tmp_path: Path) -> None:
    rows = [row(1), row(2, response_prefix="I see"), row(3, rejected_images=["other.png"])]
    report, quarantine, _ = run(tmp_path, to, rows)
    lost = {
        "canonical": {},
        "ms_swift": {"response_prefix": 1},
    }.get(to, {"response_prefix": 1, "rejected_images": 1})
    assert report.fields_lost == lost
    assert set(quarantine.counts) == {f"cannot_hold_{name}" for name in lost}
    for name in lost:
        assert f"{name} (1)" in report.summary()


def test_every_format_can_be_written_as_canonical(tmp_path: Path) -> None:
    report, _, written = run(
        tmp_path,
        "canonical",
        [row for name, row in ROWS.items() if name not in NAMED],
        options=FormatOptions(id_prefix="x:"),
    )
    assert report.num_pairs == len(ROWS) - len(NAMED) + 2, "SymMPO's row gives three pairs"
    assert set(report.formats) == set(ROWS) - NAMED
    assert all(item["id"].startswith("x:") for item in written)
    assert written[1]["id"] == "x:in:2", "a row without an id is named by its place"


def test_llamafactory_gets_its_dataset_info(tmp_path: Path) -> None:
    rows = [row(1), row(2)]
    rows[1]["prompt"] = [{"role": "system", "content": "Brief."}, *rows[1]["prompt"]]
    info = tmp_path / "out" / "dataset_info.json"
    info.parent.mkdir()
    info.write_text('{"other": {"file_name": "other.json"}}')
    report, _, _ = run(tmp_path, "llamafactory_sharegpt", rows, name="cups")
    assert json.loads(info.read_text()) == {
        "other": {"file_name": "other.json"},
        "cups": {
            "file_name": "pairs.json",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {
                "messages": "conversations",
                "chosen": "chosen",
                "rejected": "rejected",
                "system": "system",
                "images": "images",
            },
        },
    }
    assert report.files == (tmp_path / "out" / "pairs.json", info)
    run(tmp_path, "llamafactory_alpaca", [row(1)])
    assert json.loads(info.read_text())["pairs"]["columns"] == {
        "prompt": "instruction",
        "query": "input",
        "chosen": "chosen",
        "rejected": "rejected",
        "images": "images",
    }


@pytest.mark.parametrize(
    ("content", "why"), [("{", "is not JSON that can be read"), ("[]", "is there and is not a JSON object")]
)
def test_a_broken_dataset_info_is_not_overwritten(content: str, why: str, tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text(content)
    with pytest.raises(DataError, match=rf"dataset_info\.json:? {why}"):
        convert(
            numbered([row(1)]), ConvertSettings(to="llamafactory", out=tmp_path / "x.json"), quarantine=Quarantine()
        )
    assert info.read_text() == content
    assert not (tmp_path / "x.json").exists()


def test_embedded_images_become_files_except_in_canonical_rows(tmp_path: Path) -> None:
    embedded = {"bytes": base64.b64encode(PNG).decode()}
    rows = [row(1, images=[embedded]), row(2, images=[PNG]), row(3, images=[b"\xff\xd8\xff other"])]
    _, _, canonical = run(tmp_path, "canonical", rows)
    assert canonical[1]["images"] == [embedded]
    report, _, written = run(tmp_path, "trl", rows)
    folder = tmp_path / "out" / "pairs_images"
    assert report.files[1] == folder
    assert sorted(file.suffix for file in folder.iterdir()) == [".jpg", ".png"]
    (pair,) = to_canonical(written[1])
    assert (tmp_path / "out" / pair["images"][0]).read_bytes() == PNG
    assert pair_from_row(pair, source="x", line=1).images == (ImageRef(written[0]["images"][0]),)


def test_broken_rows_are_quarantined_with_their_place(tmp_path: Path) -> None:
    rows = [
        row(1),
        row(2, chosen=""),
        {"odd": 1},
        row(1),
        row(5, meta={"x": "\ud800"}),
        {**ROWS["mm_rlhf"], "is_tie": True},
        {
            **ROWS["vlfeedback"],
            "completions": [*ROWS["vlfeedback"]["completions"], ROWS["vlfeedback"]["completions"][0]],
        },
    ]
    report, quarantine, written = run(tmp_path, "canonical", rows)
    found = [(item.row, item.reason) for item in quarantine.rows]
    assert found == [(2, "empty_response"), (3, "unknown_format"), (4, "duplicate_id"), (5, "not_json"), (6, "no_pair")]
    assert [item["id"] for item in written] == ["r1", "v:1-0", "v:1-2"]
    assert (report.num_rows, report.num_pairs) == (7, 3)
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("to", TARGETS)
def test_nothing_is_written_when_reading_fails_halfway(to: str, tmp_path: Path) -> None:
    def rows() -> Iterator[tuple[str, int, Row]]:
        yield "in", 1, row(1, images=[PNG])
        raise DataError("the file ends in the middle")

    with pytest.raises(DataError, match="ends in the middle"):
        convert(rows(), ConvertSettings(to=to, out=tmp_path / "x.json"), quarantine=Quarantine())
    assert list(tmp_path.iterdir()) == []


def test_no_pair_at_all_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    out.write_text("old")
    with pytest.raises(
        DataError, match=r"nothing could be written .* 1 rows read, 0 used.*first: in\.jsonl, row 1.*empty"
    ):
        convert(numbered([row(1, rejected=" ")]), ConvertSettings(to="trl", out=out), quarantine=Quarantine())
    assert out.read_text() == "old"


def test_only_formats_that_are_written_can_be_targets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'povid' is only read; written are: canonical, trl"):
        convert(numbered([row(1)]), ConvertSettings(to="povid", out=tmp_path / "x"), quarantine=Quarantine())
    with pytest.raises(ConfigError, match="unknown format 'tlr'"):
        convert(numbered([row(1)]), ConvertSettings(to="tlr", out=tmp_path / "x"), quarantine=Quarantine())
    with pytest.raises(ConfigError, match="unknown format 'x'"):
        convert(
            numbered([row(1)]),
            ConvertSettings(to="trl", out=tmp_path / "x"),
            source_format="x",
            quarantine=Quarantine(),
        )


# ---- where images are -----------------------------------------------------------------------------------------


def imaged(name: str, *images: Any) -> dict[str, Any]:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": "What?"}]
    answers = {"chosen": "A cup.", "rejected": "A dog."}
    return {"id": name, "images": list(images), "prompt": [{"role": "user", "content": content}], **answers}


PATHS = imaged("paths", "img/a.png")
EMBEDDED = imaged("embedded", {"bytes": "aGVsbG8="})


def converted(rows: list[dict[str, Any]], out: Path, **options: Any) -> tuple[ConvertReport, list[dict[str, Any]]]:
    given = [("rows.jsonl", number, row) for number, row in enumerate(rows, start=1)]
    root = options.pop("root", None)
    settings = ConvertSettings(to=options.pop("to", "trl"), out=out, **options)
    report = convert(given, settings, quarantine=Quarantine(), root=root)
    return report, [json.loads(line) for line in out.read_text().splitlines()]


def test_paths_stay_and_what_they_start_from_is_said(tmp_path: Path) -> None:
    report, (row,) = converted([PATHS], tmp_path / "out" / "rows.jsonl", root=tmp_path / "data")
    assert row["images"] == ["img/a.png"]
    assert report.image_root == tmp_path / "data"
    assert report.summary().endswith(f"data.root={tmp_path / 'data'}")
    report, _ = converted([PATHS], tmp_path / "data" / "rows.jsonl", root=tmp_path / "data")
    assert "start from" not in report.summary(), "it is where a reader looks anyway"
    report, _ = converted([PATHS], tmp_path / "out" / "swift.jsonl", root=tmp_path / "data", to="ms_swift")
    assert "ROOT_IMAGE_DIR" in report.summary()


def test_paths_are_written_relative_to_the_output_when_asked(tmp_path: Path) -> None:
    report, (row,) = converted([PATHS], tmp_path / "rows.jsonl", root=tmp_path / "data", rebase=True)
    assert (row["images"], report.image_root) == (["data/img/a.png"], tmp_path)
    with pytest.raises(ConfigError, match="write the output above it"):
        converted([PATHS], tmp_path / "out" / "rows.jsonl", root=tmp_path / "data", rebase=True)


@pytest.mark.parametrize("rows", [[PATHS, EMBEDDED], [EMBEDDED, PATHS]])
def test_one_folder_serves_paths_and_embedded_images_or_the_rows_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    root, out = tmp_path / "data", tmp_path / "out" / "rows.jsonl"
    with pytest.raises(ConfigError, match=r"no one folder serves both; give --image-folder a folder below"):
        converted(rows, out, root=root)
    assert not list(out.parent.glob("*")), "nothing half done is left"
    for target, images in ((out, root / "new"), (root / "rows.jsonl", None)):
        report, found = converted(rows, target, root=root, image_folder=images)
        assert report.image_root == root
        assert all((root / row["images"][0]).is_file() or row["images"] == ["img/a.png"] for row in found)
    report, found = converted(rows, out, root=root, to="canonical")
    assert {row["id"]: row["images"] for row in found}["embedded"] == EMBEDDED["images"]


def test_new_ids_save_rows_whose_ids_repeat(tmp_path: Path) -> None:
    _, found = converted([PATHS, PATHS], tmp_path / "rows.jsonl", to="canonical", new_ids=True)
    assert [(row["id"], row["meta"]) for row in found] == [(f"rows:{n}", {"row_id": "paths"}) for n in (1, 2)]
