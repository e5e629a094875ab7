"""The check before training: every fault by its reason, every image once, and a report that training can hold to."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from mmpref.data.commands.check import check
from mmpref.data.commands.check_report import CheckReport
from mmpref.data.images import decoding
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import load_each
from mmpref.data.media_files import Measured
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.data.verification import verify
from mmpref.errors import DataError
from mmpref.records import ImageRef, PreferencePair

Row = dict[str, Any]


def row(name: str, **changes: Any) -> Row:
    """A good row with the image ``good.png``; a value of ``...`` removes the key."""
    found: Row = {
        "id": name,
        "images": ["good.png"],
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is here?"}]}],
        "chosen": "A red cup.",
        "rejected": "A dog.",
        "score_chosen": 4.0,
        "score_rejected": 2.0,
    }
    found.update(changes)
    return {key: value for key, value in found.items() if value is not ...}


def turn(*parts: str) -> list[Row]:
    content = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]
    return [{"role": "user", "content": content}]


def write(folder: Path, rows: list[Row | bytes], name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = (item if isinstance(item, bytes) else json.dumps(item).encode() for item in rows)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image root with images of every kind, good and broken."""
    root = tmp_path / "root"
    root.mkdir()
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    noise.save(root / "good.png")
    noise.convert("CMYK").save(root / "cmyk.jpg")
    noise.convert("LA").save(root / "la.png")
    Image.new("I;16", (32, 32), 40_000).save(root / "deep.png")
    noise.save(root / "whole.jpg")
    data = (root / "whole.jpg").read_bytes()
    for share in (10, 50, 90):
        (root / f"cut{share}.jpg").write_bytes(data[: len(data) * share // 100])
    (root / "empty.jpg").touch()
    (root / "page.jpg").write_bytes(b"<!doctype html><title>404</title>")
    Image.new("F", (32, 32)).save(root / "float.tiff")
    Image.new("RGB", (1, 300)).save(root / "thin.png")
    Image.new("RGB", (3000, 12)).save(root / "long.png")
    (root / "bomb.png").write_bytes(bomb(30_000, 30_000))
    with (root / "huge.png").open("wb") as handle:
        handle.truncate(65 * 2**20)
    os.mkfifo(root / "fifo.png")
    (tmp_path / "outside.png").write_bytes((root / "good.png").read_bytes())
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    return root


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is very large."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0"), b"IEND")
    packed = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def run(path: Path, out: Path, **options: Any) -> CheckReport:
    report = check([open_pairs(path)], out=out, workers=options.pop("workers", 1), **options)
    assert report.used + report.quarantined == report.read
    assert sum(report.reasons.values()) == report.quarantined
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == report.quarantined
    assert json.loads((out / "data_report.json").read_text())["read"] == report.read
    return report


BAD_IMAGES = {
    "cut10.jpg": "image_decode",
    "cut50.jpg": "image_decode",
    "cut90.jpg": "image_decode",
    "empty.jpg": "image_decode",
    "page.jpg": "image_decode",
    "float.tiff": "image_decode",
    "thin.png": "image_small",
    "long.png": "image_aspect",
    "bomb.png": "image_too_large",
    "huge.png": "image_too_large",
    "fifo.png": "image_not_a_file",
    "link.png": "image_outside_root",
    "absent.png": "image_missing",
    "../outside.png": "image_outside_root",
    "/dev/zero": "image_outside_root",
    "https://example.org/a.png": "image_url",
    "s3://bucket/a.png": "image_url",
    "zip://a.zip::a.png": "image_url",
    "data:image/png;base64,AAAA": "image_url",
    "a\u0000b.png": "image_missing",
}
BAD_ROWS: dict[str, tuple[Row | bytes, str]] = {
    "more places": (row("x", prompt=turn("<image>", "<image>", "two?")), "image_count"),
    "fewer places": (row("x", prompt=turn("none")), "image_count"),
    "empty": (row("x", chosen=" \n"), "empty_response"),
    "identical": (row("x", chosen="caf\u00e9", rejected="cafe\u0301 "), "identical_pair"),
    "one score": (row("x", score_rejected=...), "score_one_side"),
    "text score": (row("x", score_chosen="4.5"), "score"),
    "boolean score": (row("x", score_chosen=True), "score"),
    "huge score": (row("x", score_chosen=10**400), "score"),
    "nan score": (json.dumps(row("x", score_chosen=float("nan"))).encode(), "json"),
    "infinite score": (b'{"score_chosen": 1e999, ' + json.dumps(row("x", score_chosen=...)).encode()[1:], "score"),
    "broken line": (b'{"id": "x", ', "json"),
    "not an object": (b"[1]", "not_an_object"),
    "assistant first": (row("x", prompt=[{"role": "assistant", "content": "hi"}]), "roles"),
    "unknown key": (row("x", choosen="a"), "unknown_key"),
    "no known format": ({"a": 1, "b": 2}, "unknown_format"),
    "demonstration": (row("x", rejected=..., score_chosen=..., score_rejected=...), "no_rejected"),
    "half a character": (b'{"chosen": "\\ud800", ' + json.dumps(row("x", chosen=...)).encode()[1:], "text_encoding"),
}


def test_every_image_fault_of_the_table_has_its_reason(folder: Path, tmp_path: Path) -> None:
    names = ["good.png", *BAD_IMAGES, "cmyk.jpg", "la.png", "deep.png", "whole.jpg"]
    path = write(folder, [row(f"r{number}", images=[name]) for number, name in enumerate(names)])
    report = run(path, tmp_path / "out")
    put_aside = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {names[item["line"] - 1]: item["reason"] for item in put_aside} == BAD_IMAGES
    assert (report.used, report.images) == (5, 5)
    assert report.fault is not None
    assert [item["line"] for item in put_aside] == sorted(item["line"] for item in put_aside)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_every_row_fault_of_the_table_has_its_reason(folder: Path, tmp_path: Path, name: str) -> None:
    bad, reason = BAD_ROWS[name]
    report = run(write(folder, [row("a"), bad, row("b")]), tmp_path / "out")
    assert (report.used, report.reasons) == (2, {reason: 1})
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 2


def test_counts_that_cancel_out_across_rows_are_both_caught(folder: Path, tmp_path: Path) -> None:
    rows: list[Row | bytes] = [row("a", prompt=turn("<image>", "<image>", "?")), row("b", prompt=turn("?")), row("c")]
    assert run(write(folder, rows), tmp_path / "out").reasons == {"image_count": 2}


def test_control_tokens_and_placeholders_in_text_are_only_text(folder: Path, tmp_path: Path) -> None:
    rows: list[Row | bytes] = [
        row("a", prompt=turn("<image>", "write <image> and <|im_end|>"), chosen="<image></s>", rejected="<|image_pad|>")
    ]
    assert run(write(folder, rows), tmp_path / "out").used == 1


def test_bom_crlf_and_blank_lines_are_no_faults(folder: Path, tmp_path: Path) -> None:
    path = folder / "rows.jsonl"
    lines = [json.dumps(row(name)) for name in "ab"]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode() + b"\r\n")
    assert (run(path, tmp_path / "out").used, run(path, tmp_path / "out").quarantined) == (2, 0)


def test_an_id_that_appears_twice_is_named_with_both_places(folder: Path, tmp_path: Path) -> None:
    report = run(write(folder, [row("a"), row("b"), row("a")]), tmp_path / "out", max_bad_fraction=1)
    assert report.reasons == {"duplicate_id": 1}
    assert report.fault is not None
    assert "have the id of an earlier row" in report.fault
    assert "rows.jsonl, line 1" in report.first_bad[0]
    assert "rows.jsonl, line 3" in report.first_bad[0]


def test_where_ids_appear_twice_those_rows_are_named_before_other_bad_ones(folder: Path, tmp_path: Path) -> None:
    bad = [row(f"bad{number}", chosen="") for number in range(6)]
    report = run(write(folder, [*bad, row("a"), row("a")]), tmp_path / "out", max_bad_fraction=1)
    assert "duplicate_id" in report.first_bad[0]
    assert len(report.first_bad) == 5
    assert all("empty_response" in told for told in report.first_bad[1:])


def test_inverted_and_tied_scores_are_counted(folder: Path, tmp_path: Path) -> None:
    rows: list[Row | bytes] = [row("a"), row("b", score_chosen=1.0), row("c", score_rejected=4.0)]
    report = run(write(folder, [*rows, row("d", score_chosen=..., score_rejected=...)]), tmp_path / "out")
    assert report.scored == 3
    assert report.scores == {"lowest": 1.0, "highest": 4.0, "inverted": 1, "tied": 1}


def test_answers_that_begin_with_the_question_are_counted(folder: Path, tmp_path: Path) -> None:
    asked = "What stands on the table beside the window?"
    prompt = turn("<image>", f"{asked}\n")
    rows: list[Row | bytes] = [
        row("a", prompt=prompt, chosen=f"{asked} A cup.", rejected=f"{asked}\nA dog."),
        row("b", prompt=prompt, chosen=f"{asked} A cup."),
        row("c", chosen="What is here? A cup.", rejected="What is here? A dog."),
    ]
    report = run(write(folder, rows), tmp_path / "out")
    assert (report.used, report.repeat_prompt, report.as_json()["repeat_prompt"]) == (3, 1, 1)


def test_what_pairs_of_a_prompt_have_in_common_is_in_the_report_and_in_words(folder: Path, tmp_path: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "copy.png").write_bytes((folder / "good.png").read_bytes())
    one = write(folder, [row("a"), row("b", rejected="A cat.", score_chosen=3.5), row("same", rejected="A red cup. ")])
    two = write(folder, [row("c", images=["more/copy.png"]), row("d", chosen="A dog.", rejected="A cat.")], "two.jsonl")
    report = check([open_pairs(one), open_pairs(two)], out=tmp_path / "out", workers=1, max_bad_fraction=0.5)
    found = report.prompts
    assert (found.pairs, found.prompts, found.pairs_per_prompt, found.answers) == (4, 2, {1: 1, 3: 1}, 5)
    (copies,) = found.copies.examples
    assert copies.startswith(str(folder / "good.png"))
    assert copies.endswith("more/copy.png")
    assert found.not_grouped.examples == ("'a' and 'c'",)
    assert found.repeated.examples == ("'a' and 'c'",)
    assert set(found.scored_twice.examples) == {"4 in 'a' and 3.5 in 'b'", "2 in 'a' and 4 in 'd'"}
    assert json.loads((tmp_path / "out" / "data_report.json").read_text())["prompts"]["pairs_per_prompt"] == {
        "1": 1, "3": 1,
    }  # fmt: skip
    assert dict(report.rows())["prompts by pairs"] == "1: 1, 3: 1"
    told = "\n".join(report.warnings())
    assert "1 pair has the same text as both answers and is left out: 'same'" in told
    assert "4 in 'a' and 3.5 in 'b'" in told


def test_the_allowed_share_decides(folder: Path, tmp_path: Path) -> None:
    path = write(folder, [*(row(f"r{number}") for number in range(9)), row("bad", chosen="")])
    strict, lenient = run(path, tmp_path / "a"), run(path, tmp_path / "b", max_bad_fraction=0.1)
    assert "1 of 10 rows cannot be used" in (strict.fault or "")
    assert lenient.fault is None
    assert run(write(folder, [row("x", chosen="")]), tmp_path / "c", max_bad_fraction=1).fault == "no usable row"


def test_each_image_is_decoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    submit = decoding.Decoder.submit

    def counted(decoder: decoding.Decoder, tasks: Any) -> Any:
        seen.extend(task.ref.path for task in tasks)
        return submit(decoder, tasks)

    monkeypatch.setattr(decoding.Decoder, "submit", counted)
    names = ["good.png", "whole.jpg", "cut50.jpg"]
    rows: list[Row | bytes] = [row(f"r{number}", images=[names[number % 3]]) for number in range(100)]
    report = run(write(folder, rows), tmp_path / "out")
    assert sorted(name for name in seen if name) == sorted(names)
    assert (report.used, report.reasons, report.images) == (67, {"image_decode": 33}, 2)


def test_processes_find_what_one_process_finds(folder: Path, tmp_path: Path) -> None:
    image = (folder / "good.png").read_bytes()
    for number in range(90):
        (folder / f"copy{number}.png").write_bytes(image[: 200 if number % 10 == 3 else len(image)])
    rows: list[Row | bytes] = [row(f"r{number}", images=[f"copy{number}.png"]) for number in range(90)]
    steps: list[tuple[int, int | None]] = []
    path = write(folder, [*rows, row("good"), row("again", chosen="")])
    one = run(path, tmp_path / "one", progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (92, 92)
    two = run(path, tmp_path / "two", workers=2)
    assert one == two
    assert one.reasons == {"image_decode": 9, "empty_response": 1}
    assert (tmp_path / "one" / "quarantine.jsonl").read_bytes() == (tmp_path / "two" / "quarantine.jsonl").read_bytes()


def test_embedded_images_are_decoded_too(folder: Path, tmp_path: Path) -> None:
    data = (folder / "good.png").read_bytes()
    rows = [row(f"r{number}", images=[{"bytes": data[: 100 if number == 1 else None], "path": None}], prompt=...)
            for number in range(3)]  # fmt: skip
    prompt = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "?"}]}]
    parquet.write_table(pa.Table.from_pylist([{**item, "prompt": prompt} for item in rows]), tmp_path / "rows.parquet")
    report = run(tmp_path / "rows.parquet", tmp_path / "out")
    assert (report.used, report.reasons, report.images) == (2, {"image_decode": 1}, 2)


class Deadly(ImageLoader):
    """Some images end the process that decodes them, as a fault in a decoder's C code would."""

    def measure(self, ref: ImageRef) -> Measured:
        if ref.path == "exits.png":
            os._exit(7)
        if ref.path == "crashes.png":
            os.kill(os.getpid(), signal.SIGSEGV)
        if ref.path == "killed.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(ref)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_ends_its_decoder_is_quarantined_and_the_others_go_on(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    names = ["exits.png", "crashes.png", "killed.png"]
    for name in names:
        (folder / name).write_bytes((folder / "good.png").read_bytes())
    rows: list[Row | bytes] = [row(f"r{number}", images=["good.png"]) for number in range(100)]
    for place, name in zip((5, 40, 41), names, strict=True):
        rows.insert(place, row(name, images=["good.png", name], prompt=turn("<image>", "<image>", "?")))
    source = replace(open_pairs(write(folder, rows)), images=Deadly(folder))
    report = check([source], out=tmp_path / "out", workers=workers, max_bad_fraction=0.1)
    assert (report.read, report.used, report.reasons) == (103, 100, {"image_crash": 3})
    found = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [item["id"] for item in found] == names
    ends = ["exit code 7", "killed by SIGSEGV", "killed by SIGKILL"]
    assert [item["detail"].rsplit(": ", 1)[-1] for item in found] == ends


def test_memory_holds_some_images_and_not_all(folder: Path, tmp_path: Path) -> None:
    """Embedded images of 1 MB: what is on its way at a time does not depend on how many there are."""
    data = zlib.compress(random.Random(1).randbytes(1000), 0) * 1000
    rows = [{**row(f"r{number}"), "images": [{"bytes": data + bytes([number]), "path": None}]} for number in range(150)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=10, use_dictionary=False)
    del rows
    code = (
        "import sys; from pathlib import Path; from mmpref.data.commands.check import check;"
        "from mmpref.data.opening import open_pairs;"
        "report = check([open_pairs(sys.argv[1])], out=Path(sys.argv[2]), workers=1, max_bad_fraction=1);"
        "peak = int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) // 1024;"
        "print(report.read, report.reasons, peak)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "rows.parquet"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read, *reasons, peak = done.stdout.split()
    assert (read, " ".join(reasons)) == ("150", "{'image_decode': 150}")
    assert int(peak) < 200, "the file has 150 MB, the libraries 80"


# ---- the manifest ---------------------------------------------------------------------------------------------


def checked(folder: Path, out: Path, **options: Any) -> Path:
    names = ["good.png", "whole.jpg", "cut90.jpg"]
    path = write(folder, [row(f"r{number}", images=[name]) for number, name in enumerate(names)])
    run(path, out, max_bad_fraction=0.5, **options)
    return path


def test_a_verified_load_leaves_out_what_the_check_quarantined(folder: Path, tmp_path: Path) -> None:
    path = checked(folder, tmp_path / "out")
    moved = path.rename(folder / "moved.jsonl")
    sources = [open_pairs(moved)]
    found = verify(tmp_path / "out" / "data_report.json", sources, demonstrations=False)
    quarantine = Quarantine()
    lists = load_each(sources, allow_demonstrations=False, quarantine=quarantine, max_bad_fraction=0.5, skip=found.skip)
    assert [pair.id for pair in lists[0]] == ["r0", "r1"]
    assert quarantine.counts == {"image_decode": 1}, "its header is in order, so only the check can know"
    found.verify_images(sources, lists)
    (folder / "whole.jpg").write_bytes((folder / "whole.jpg").read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"the images of .* are not those of"):
        found.verify_images(sources, lists)


def test_images_are_hashed_again_when_only_their_time_differs_or_when_asked(folder: Path, tmp_path: Path) -> None:
    path = checked(folder, tmp_path / "out")
    sources = [open_pairs(path)]
    found = verify(tmp_path / "out" / "data_report.json", sources, demonstrations=False)

    def load() -> list[list[PreferencePair]]:
        return load_each(
            sources, allow_demonstrations=False, quarantine=Quarantine(), max_bad_fraction=1, skip=found.skip
        )

    image = folder / "good.png"
    data, facts = bytearray(image.read_bytes()), image.stat()
    os.utime(image, ns=(1, 1))
    found.verify_images(sources, load())  # touched, and the same
    data[-20] ^= 1
    image.write_bytes(data)
    with pytest.raises(DataError, match="names and sizes are the same, and the bytes"):
        found.verify_images(sources, load())
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    found.verify_images(sources, load())  # forged: name, size and time are those of the check
    with pytest.raises(DataError, match="names and sizes are the same, and the bytes"):
        found.verify_images(sources, load(), full=True)


def test_a_hub_id_that_gives_other_pairs_is_refused(folder: Path, tmp_path: Path) -> None:
    """A source without files, as the hub is one: known by what its pairs say."""
    local = open_pairs(write(folder, [row(f"r{number}") for number in range(3)]))
    as_hub = replace(local.rows, spec="owner/name", files=())
    check([replace(local, rows=as_hub)], out=tmp_path / "out", workers=1)

    def verified(rows: list[Row | bytes]) -> None:
        write(folder, rows)
        sources = [replace(local, rows=as_hub)]
        found = verify(tmp_path / "out" / "data_report.json", sources, demonstrations=False)
        found.verify_images(sources, load_each(sources, allow_demonstrations=False, quarantine=Quarantine()))

    verified([row(f"r{number}") for number in range(3)])
    for other in (row("r1", chosen="A cup."), row("r1", score_chosen=4.5), row("r1", prompt=turn("<image>", "!"))):
        with pytest.raises(DataError, match="owner/name does not give the pairs"):
            verified([row("r0"), other, row("r2")])


def changed_rows(folder: Path, out: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace("A red cup.", "A blue cup.", 1))


def changed_quarantine(folder: Path, out: Path) -> None:
    (out / "quarantine.jsonl").write_text("")


def changed_report(folder: Path, out: Path) -> None:
    path = out / "data_report.json"
    report = json.loads(path.read_text())
    report["manifest"]["sources"][0]["files"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(report))


def no_report(folder: Path, out: Path) -> None:
    (out / "data_report.json").write_text("[]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_rows, r"rows\.jsonl is not what .*data_report\.json describes"),
        (changed_quarantine, "not the one that was written with the report"),
        (changed_report, "changed by hand"),
        (no_report, "is not a report of mmpref data check"),
    ],
)
def test_data_that_is_not_what_was_checked_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[Path, Path], None], message: str
) -> None:
    path = checked(folder, tmp_path / "out")
    change(folder, tmp_path / "out")
    with pytest.raises(DataError, match=message):
        verify(tmp_path / "out" / "data_report.json", [open_pairs(path)], demonstrations=False)


def test_a_report_for_another_use_is_refused(folder: Path, tmp_path: Path) -> None:
    path = checked(folder, tmp_path / "out")
    with pytest.raises(DataError, match="with --demonstrations"):
        verify(tmp_path / "out" / "data_report.json", [open_pairs(path)], demonstrations=True)


def test_the_manifest_hash_is_of_the_data_and_not_of_its_place(folder: Path, tmp_path: Path) -> None:
    first = run(checked(folder, tmp_path / "out"), tmp_path / "a", max_bad_fraction=1).manifest["hash"]
    elsewhere = folder.rename(tmp_path / "elsewhere")
    again = run(elsewhere / "rows.jsonl", tmp_path / "b", max_bad_fraction=1).manifest["hash"]
    assert first == again
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    (elsewhere / "good.png").write_bytes(buffer.getvalue())
    assert run(elsewhere / "rows.jsonl", tmp_path / "c", max_bad_fraction=1).manifest["hash"] != first


def test_other_images_that_are_copies_of_the_first_ones_are_quarantined(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "good.png").read_bytes())
    data = base64.b64encode((folder / "good.png").read_bytes()).decode()
    path = write(
        folder,
        [
            row("first", other_images=["whole.jpg"]),
            row("copy", other_images=["copy.png"]),
            row("copy again", other_images=["copy.png"]),
            row("embedded", images=[{"bytes": data}], other_images=["copy.png"]),
            row("broken", other_images=["cut50.jpg"]),
            row("absent", other_images=["absent.png"]),
            row("last", images=["copy.png"], other_images=["whole.jpg"]),
        ],
    )
    report = run(path, tmp_path / "out")
    assert report.reasons == {"other_images": 3, "image_decode": 1, "image_missing": 1}
    assert report.loss.other_images == 2
    assert report.images == 3, "images of a loss are decoded and counted like the others"
    assert ("other images", "2 of 2 rows with images") in report.rows()


def test_the_manifest_proves_other_images_and_what_is_said_to_the_loss(folder: Path, tmp_path: Path) -> None:
    path = write(folder, [row("a", other_images=["whole.jpg"], weight=2.0)])
    run(path, tmp_path / "out")
    source = open_pairs(path)

    def look() -> None:
        checked = verify(tmp_path / "out", [source], demonstrations=False)
        pairs = [found.pair for found in source.pairs(Quarantine(), demonstrations=False)]
        checked.verify_images([source], [pairs], full=True)

    look()
    with (folder / "whole.jpg").open("ab") as handle:
        handle.write(b"\0")
    with pytest.raises(DataError, match="the images of"):
        look()


def test_labelled_answers_are_checked_for_the_loss_that_reads_them(folder: Path, tmp_path: Path) -> None:
    single = {"rejected": ..., "score_chosen": ..., "score_rejected": ...}
    rows: list[Row | bytes] = [
        row("pair"),
        row("good", label=True, **single),
        row("bad", label=False, **single),
        row("demo", **single),
    ]
    path = write(folder, rows)
    report = run(path, tmp_path / "out", demonstrations="labelled")
    assert (report.used, report.reasons, report.loss.labelled, report.loss.desirable) == (3, {"no_label": 1}, 2, 1)
    assert ("single answers", "2 with a label, 1 desirable (50.0%)") in report.rows()
    assert not [line for line in report.warnings() if "have no scores" in line], "a single answer needs no score"
    assert run(path, tmp_path / "sft", demonstrations=True).reasons == {"undesirable": 1}
    assert run(path, tmp_path / "dpo").reasons == {"single_answer": 2, "no_rejected": 1}
    with pytest.raises(DataError, match=r"run mmpref data check without --labelled"):
        verify(tmp_path / "out", [open_pairs(path)], demonstrations=False)
    with pytest.raises(DataError, match=r"run mmpref data check with --labelled"):
        verify(tmp_path / "dpo", [open_pairs(path)], demonstrations="labelled")
