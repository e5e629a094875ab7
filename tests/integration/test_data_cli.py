"""``mmpref data``: each command end to end, its output and its exit code; and a recipe that holds to a check."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from mmpref.cli_data import app
from mmpref.errors import MMPrefError


def canonical(name: str, image: str, **changes: Any) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    prompt = [{"role": "user", "content": content}]
    scores = {"score_chosen": 4.0, "score_rejected": 2.0}
    row = {"id": name, "images": [image], "prompt": prompt, "chosen": f"A cup, {name}.", "rejected": "A dog.", **scores}
    return {**row, **changes}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Five pairs and their pictures."""
    path = tmp_path / "rows.jsonl"
    for number in range(5):
        Image.new("RGB", (40, 30), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
    path.write_text("".join(json.dumps(canonical(f"r{number}", f"{number}.png")) + "\n" for number in range(5)))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def code(result: Result) -> int:
    """The exit code that the program would end with: an expected error brings its own."""
    return result.exception.exit_code if isinstance(result.exception, MMPrefError) else result.exit_code


def test_the_cards_are_listed_and_shown() -> None:
    listed = call("list")
    assert code(listed) == 0
    assert "rlaif_v" in listed.output
    shown = call("show", "rlaif_v")
    assert code(shown) == 0
    assert "license" in shown.output
    assert code(call("show", "rlaif_w")) == 3


def test_check_writes_its_two_files_and_says_what_it_found(rows: Path, tmp_path: Path) -> None:
    result = call("check", rows, "--out", tmp_path / "out", "--workers", 1)
    assert code(result) == 0, result.output
    assert "5 decoded" in result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"data_report.json", "quarantine.jsonl"}
    assert json.loads((tmp_path / "out" / "data_report.json").read_text())["passed"] is True


def test_check_ends_with_3_when_too_much_is_bad(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes(b"<html>")
    result = call("check", rows, "--out", tmp_path / "out", "--workers", 1)
    assert code(result) == 3
    assert "1 of 5 rows cannot be used" in str(result.exception)
    assert "rows.jsonl:4 (id 'r3'): image_decode" in str(result.exception)
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 1
    assert code(call("check", rows, "--out", tmp_path / "o", "--workers", 1, "--max-bad-fraction", 0.2)) == 0
    assert code(call("check", tmp_path / "absent.jsonl")) == 3


@pytest.mark.parametrize("target", ["trl", "ms_swift", "llamafactory_alpaca"])
def test_convert_there_and_back_keeps_the_pairs(rows: Path, tmp_path: Path, target: str) -> None:
    there, back = tmp_path / "there.json", tmp_path / "back.jsonl"
    assert code(call("convert", rows, "--to", target, "--out", there)) == 0
    assert code(call("convert", there, "--to", "canonical", "--out", back)) == 0
    found = [json.loads(line) for line in back.read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in found] == [(f"A cup, r{n}.", "A dog.") for n in range(5)]
    assert code(call("convert", rows, "--to", "rlhf_v", "--out", there)) == 3


def test_audit_tells_and_drops_leaks(rows: Path, tmp_path: Path) -> None:
    leak = "COCO_val2014_000000000042.png"
    (tmp_path / "0.png").rename(tmp_path / leak)
    rows.write_text(rows.read_text().replace('"0.png"', f'"{leak}"'))
    questions = tmp_path / "pope.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "image": "COCO_val2014_000000000042.jpg", "text": "?"}))
    out, clean = tmp_path / "audit.json", tmp_path / "clean.jsonl"
    result = call("audit", rows, "--benchmark-ids", f"pope={questions}", "--out", out, "--drop-leaks", clean)
    assert code(result) == 0, result.exception
    assert json.loads(out.read_text())["leaks"] == ["r0"]
    assert [json.loads(line)["id"] for line in clean.read_text().splitlines()] == ["r1", "r2", "r3", "r4"]
    assert code(call("audit", rows, "--benchmark-ids", "pope")) == 2


def test_view_writes_one_page_with_the_quarantined_rows(rows: Path, tmp_path: Path) -> None:
    with rows.open("a") as handle:
        handle.write(json.dumps(canonical("bad", "0.png", chosen="")) + "\n")
    result = call("view", rows, "--out", tmp_path / "page.html")
    assert code(result) == 0, result.exception
    assert "6 rows read, 5 used, 1 quarantined" in result.output
    page = (tmp_path / "page.html").read_text()
    assert "A cup, r4." in page
    assert "empty_response" in page


def test_fetch_asks_no_host_that_was_not_named(rows: Path, tmp_path: Path) -> None:
    rows.write_text(json.dumps(canonical("a", "https://example.org/a.png")))
    arguments = ("fetch", rows, "--out", tmp_path / "out.jsonl", "--root", tmp_path / "root")
    assert code(call(*arguments)) == 2
    result = call(*arguments, "--host", "other.example.org")
    assert code(result) == 3
    assert "fetch_host" in str(result.exception)


@pytest.mark.parametrize("command", ["list", "show", "check", "convert", "audit", "view", "fetch"])
def test_help_explains_each_command(command: str) -> None:
    result = call(command, "--help")
    assert code(result) == 0
    assert typer.unstyle(result.output).strip()


def test_no_command_loads_torch(rows: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from typer.testing import CliRunner
from mmpref.cli_data import app
for arguments in (["list"], ["check", {str(rows)!r}, "--out", {str(tmp_path / "out")!r}, "--workers", "1"],
                  ["audit", {str(rows)!r}], ["view", {str(rows)!r}, "--out", {str(tmp_path / "page.html")!r}]):
    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments
print(sorted({{"torch", "transformers", "datasets", "accelerate"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
