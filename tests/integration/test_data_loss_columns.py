"""``mmpref data`` on rows that say something to the loss: each command end to end, from files of several suites."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.integration.test_data_cli import call, canonical, code

SIDES = {"chosen": "Yes.", "rejected": "No."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        size = (40, 30) if number < 3 else (60, 30)
        Image.new("RGB", size, (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_pairs_with_other_images_and_weights_go_through_every_command(folder: Path) -> None:
    rows = [
        canonical("a", "0.png", other_images=["1.png"], weight=0.5, chosen_weight=[[0, 1, 3]]),
        canonical("b", "1.png", other_images=["3.png"], rejected_weight=2),
    ]
    path = written(folder, "rows.jsonl", rows)
    checked = call("check", path, "--out", folder / "out", "--workers", 1, "--fix", folder / "clean.jsonl")
    assert code(checked) == 0, checked.output
    assert "3 decoded" in checked.output
    assert "2 of 2 rows with images" in checked.output
    clean = [json.loads(line) for line in (folder / "clean.jsonl").read_text().splitlines()]
    assert [(row["other_images"], row.get("weight", 1)) for row in clean] == [(["1.png"], 0.5), (["3.png"], 1)]
    again = call("check", folder / "clean.jsonl", "--out", folder / "again", "--workers", 1)
    assert code(again) == 0, again.output
    audited = call("audit", path)
    assert code(audited) == 0, audited.output
    told = " ".join(audited.output.split())
    assert "1 of 2 rows have other_images of another size" in told
    assert "processing.other_image.resize=true" in told
    shown = call("view", path, "--out", folder / "page.html")
    assert code(shown) == 0, shown.output
    assert '"otherImages"' in (folder / "page.html").read_text()
    lost = call("convert", path, "--to", "trl", "--out", folder / "trl.jsonl")
    assert code(lost) == 3
    assert "cannot_hold_other_images" in str(lost.exception)


def test_labelled_answers_of_a_table_are_checked_and_written_for_other_suites(folder: Path) -> None:
    """Labels as a table has them, beside nothing in the columns of pairs."""
    rows = [
        {"id": str(number), "images": [f"{number}.png"], "prompt": "What?", "completion": f"A cup {number}.",
         "label": number % 2, "chosen": None}
        for number in range(4)
    ]  # fmt: skip
    path = folder / "kto.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    plain = call("check", path, "--out", folder / "plain", "--workers", 1)
    assert code(plain) == 3
    assert "loss.name=kto" in str(plain.exception)
    lines = str(plain.exception).splitlines()
    advised = shlex.split(next(line for line in lines if line.endswith(f"--labelled --out {folder / 'plain'}")))
    assert advised[:3] == ["mmpref", "data", "check"]
    assert code(call(*advised[2:], "--workers", 1)) == 0
    checked = call("check", path, "--out", folder / "out", "--workers", 1, "--labelled")
    assert code(checked) == 0, checked.output
    assert "4 with a label, 2 desirable (50.0%)" in checked.output
    offered = next(line for line in checked.output.splitlines() if line.startswith("  mmpref train RECIPE"))
    assert offered.endswith(" loss.name=kto")
    assert code(call("verify", path, "--report", folder / "out", "--labelled")) == 0
    refused = call("verify", path, "--report", folder / "out")
    assert code(refused) == 3
    assert "loss.name=kto" in str(refused.exception)
    assert code(call("check", path, "--out", folder / "x", "--labelled", "--demonstrations")) == 2
    for target in ("canonical", "trl_kto", "ms_swift_kto", "llamafactory_kto", "llamafactory_kto_sharegpt"):
        out = folder / f"{target}.{'json' if target.startswith('llama') else 'jsonl'}"
        result = call("convert", path, "--to", target, "--out", out)
        assert code(result) == 0, result.output
        found = call("check", out, "--out", folder / f"check_{target}", "--workers", 1, "--labelled")
        assert code(found) == 0, found.output
        assert "4 with a label, 2 desirable" in found.output
    refused = call("convert", path, "--to", "trl", "--out", folder / "pairs.jsonl")
    assert code(refused) == 3
    assert "trl_kto" in str(refused.exception)


def test_rows_of_papers_say_what_they_say_to_their_loss(folder: Path) -> None:
    talk = [{"role": "user", "content": "<image>\nWhat?"}]
    sides = {side: [*talk, {"role": "assistant", "content": said}] for side, said in SIDES.items()}
    symmetric = {
        "idx": 1, "image_1": "0.png", "image_2": "1.png", "question": "What?",
        "resp_1_w": "A cup.", "resp_1_l": "A dog.", "resp_2_w": "A hat.",
    }  # fmt: skip
    severe = {"id": "0", "question": "What?", "chosen": "A.", "rejected": "B.", "rejected_score": 2.5, "image": "0.png"}
    files = {
        "re_align": [{"id": "r", "image": "0.png", "retrieved_image": "1.png", **sides}],
        "symmpo": [symmetric],
        "hsa_dpo": [severe],
    }
    wanted = {
        "re_align": [{"other_images": ["1.png"]}],
        "symmpo": [{}, {"weight": 0.5}, {"weight": 0.5}],
        "hsa_dpo": [{"rejected_weight": 2.5}],
    }
    for name, rows in files.items():
        path, out = written(folder, f"{name}.jsonl", rows), folder / f"{name}.ours.jsonl"
        result = call("convert", path, "--format", name, "--to", "canonical", "--out", out)
        assert code(result) == 0, result.output
        found = [json.loads(line) for line in out.read_text().splitlines()]
        keys = ("other_images", "weight", "rejected_weight")
        assert [{key: row[key] for key in keys if key in row} for row in found] == wanted[name]
        assert code(call("check", out, "--out", folder / f"{name}.check", "--workers", 1)) == 0
