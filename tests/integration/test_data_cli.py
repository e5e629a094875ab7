"""``mmpref data``: each command end to end, its output and its exit code; and a recipe that holds to a check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mmpref.cli.data import app
from mmpref.cli.main import main
from mmpref.errors import ConfigError, MMPrefError
from mmpref.recipe.loading import build_recipe, dump_recipe, load_recipe
from mmpref.rundir.folder import RunDir
from mmpref.yaml_text import parse_yaml
from tests.integration.conftest import Place


def canonical(name: str, image: str, **changes: Any) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    prompt = [{"role": "user", "content": content}]
    scores = {"score_chosen": 4.0, "score_rejected": 2.0}
    row = {"id": name, "images": [image], "prompt": prompt, "chosen": f"A cup, {name}.", "rejected": "A dog.", **scores}
    return {**row, **changes}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Five pairs and their images."""
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
    assert code(call("show", "rlaif_w")) == 2


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
    assert "rows.jsonl, line 4 (id 'r3'): image_decode" in str(result.exception)
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
    assert code(call("convert", rows, "--to", "rlhf_v", "--out", there)) == 2


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
    assert "image paths start from" not in result.output
    elsewhere = tmp_path / "clean" / "pairs.jsonl"
    result = call("audit", rows, "--benchmark-ids", f"pope={questions}", "--without-images", "--drop-leaks", elsewhere)
    assert f"data.root={tmp_path}" in result.output.replace("\n", "")
    assert code(call("check", elsewhere, "--image-root", tmp_path, "--out", tmp_path / "checked")) == 0
    assert code(call("audit", rows, "--benchmark-ids", "pope")) == 2


def test_view_writes_one_page_with_the_quarantined_rows(rows: Path, tmp_path: Path) -> None:
    with rows.open("a") as handle:
        handle.write(json.dumps(canonical("bad", "0.png", chosen="")) + "\n")
    result = call("view", rows, "--out", tmp_path / "page.html")
    assert code(result) == 0, result.exception
    assert "6 rows read, 5 used, 1 quarantined" in result.output
    page = (tmp_path / "page.html").read_text()
    assert all(f'"r{number}"' in page for number in range(5))
    assert "empty_response" in page


def test_fetch_asks_no_host_that_was_not_named(rows: Path, tmp_path: Path) -> None:
    rows.write_text(json.dumps(canonical("a", "https://example.org/a.png")))
    arguments = ("fetch", rows, "--out", tmp_path / "out.jsonl", "--image-root", tmp_path / "root")
    assert code(call(*arguments)) == 2
    result = call(*arguments, "--host", "other.example.org")
    assert code(result) == 3
    assert "fetch_host" in str(result.exception)


@pytest.mark.parametrize("command", ["list", "show", "check", "convert", "audit", "view", "fetch"])
def test_help_explains_each_command(command: str) -> None:
    result = call(command, "--help")
    assert code(result) == 0
    assert f"Usage: data {command}" in " ".join(result.output.split())


def test_no_command_loads_torch(rows: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from typer.testing import CliRunner
from mmpref.cli.data import app
for arguments in (["list"], ["check", {str(rows)!r}, "--out", {str(tmp_path / "out")!r}, "--workers", "1"],
                  ["audit", {str(rows)!r}], ["view", {str(rows)!r}, "--out", {str(tmp_path / "page.html")!r}]):
    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments
print(sorted({{"torch", "transformers", "datasets", "accelerate"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


# ---- training on what was checked -----------------------------------------------------------------------------

SHORT = ("data.eval=[]", "train.max_steps=2", "train.per_device_train_batch_size=4")


def test_a_run_with_a_manifest_trains_on_what_was_checked_and_on_nothing_else(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    pairs.write_text(place.world.pairs.read_text())
    assert code(call("check", pairs, "--image-root", place.world.root, "--out", out, "--workers", 1)) == 0
    changes = (*SHORT, f"data.train={pairs}", f"data.manifest={out / 'data_report.json'}")
    assert main(place.training("demo_dpo", tmp_path / "run", *changes)) == 0
    report = json.loads((out / "data_report.json").read_text())
    assert RunDir(tmp_path / "run").manifest()["data_manifest"] == report["manifest"]["hash"]
    pairs.write_text(pairs.read_text() + "\n")
    capsys.readouterr()
    assert main(place.training("demo_dpo", tmp_path / "again", *changes)) == 3
    assert "its bytes have changed" in capsys.readouterr().err


def test_sources_may_be_sections_with_weights(place: Place, tmp_path: Path) -> None:
    both = [
        {"path": str(place.world.pairs), "weight": 0.5},
        {"path": str(place.world.pairs_heldout), "weight": 2, "format": "canonical"},
    ]
    changes = (*SHORT, f"data.train={json.dumps(both)}")
    assert main(place.training("demo_dpo", tmp_path / "run", *changes)) == 0
    manifest = RunDir(tmp_path / "run").manifest()
    number = {path: len(path.read_text().splitlines()) for path in (place.world.pairs, place.world.pairs_heldout)}
    assert manifest["pairs"] == number[place.world.pairs] // 2 + 2 * number[place.world.pairs_heldout]
    assert set(manifest["data"]) == {str(path) for path in number}


def test_a_share_is_held_out_by_image(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = (*SHORT, "data.held_out=0.25")
    assert main(place.training("demo_dpo", tmp_path / "run", *changes)) == 0
    number = len(place.world.pairs.read_text().splitlines())
    assert 0.5 * number < RunDir(tmp_path / "run").manifest()["pairs"] < number
    assert RunDir(tmp_path / "run").eval_pairs_file.is_file()
    assert main(place.training("demo_dpo", tmp_path / "two", "data.held_out=0.25")) == 2
    assert "data.eval and data.held_out are both given" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("{path: a.jsonl, fromat: trl}", "unknown key 'data.train.0.fromat', did you mean 'data.train.0.format'?"),
        ("{path: a.jsonl, weight: 0}", "'data.train.0.weight': input should be greater than 0"),
        ("{weight: 2}", "missing key 'data.train.0.path'"),
        ("[a.jsonl, 3]", "'data.train.1'"),
    ],
)
def test_a_section_that_cannot_be_used_is_named_by_its_key(train: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("demo_dpo", [f"data.train={train}"])
    assert message in str(caught.value)


def test_a_recipe_with_sections_is_written_and_read_back() -> None:
    recipe = load_recipe("demo_dpo", ["data.train=[a.jsonl, {path: b.parquet, weight: 2, root: images}]"])
    assert recipe.data.train_paths == ["a.jsonl", "b.parquet"]
    assert build_recipe(parse_yaml(dump_recipe(recipe), where="x"), where="x") == recipe


# ---- what is read is never written over ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "SRC", "--to", "trl", "--out", "SRC"],
        ["view", "SRC", "--out", "SRC"],
        ["audit", "SRC", "--out", "SRC"],
        ["audit", "SRC", "--drop-leaks", "SRC"],
        ["fetch", "SRC", "--image-root", ".", "--host", "example.org", "--out", "SRC"],
    ],
    ids=lambda words: " ".join(words[:1] + words[2:3]),
)
def test_the_source_is_not_accepted_as_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "pairs.jsonl"
    row = (
        '{"id": "1", "images": [], "prompt": [{"role": "user", "content": "what ?"}], "chosen": "a", "rejected": "b"}\n'
    )
    source.write_text(row)
    assert main(["data", *(str(source) if word == "SRC" else word for word in command)]) == 2
    assert "would write over" in capsys.readouterr().err
    assert source.read_text() == row


def test_a_pipe_as_the_source_is_refused_and_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert main(["data", "check", str(tmp_path / "pipe.jsonl"), "--out", str(tmp_path / "out")]) == 3
    assert "is not a regular file" in capsys.readouterr().err


def test_convert_counts_the_lines_that_could_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = (
        '{"id": "1", "images": [], "prompt": [{"role": "user", "content": "what ?"}], "chosen": "a", "rejected": "b"}\n'
    )
    (tmp_path / "pairs.jsonl").write_text(row + "{broken\n" + "[1]\n")
    assert (
        main(["data", "convert", str(tmp_path / "pairs.jsonl"), "--to", "trl", "--out", str(tmp_path / "o.jsonl")]) == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "3 rows read, 1 pairs written" in said
    assert "2 quarantined" in said


def test_what_the_commands_wrote_beside_the_rows_is_not_read_as_rows(rows: Path, tmp_path: Path) -> None:
    assert code(call("check", tmp_path, "--out", tmp_path)) == 0
    rows.write_text(rows.read_text() + "broken\n")
    assert code(call("convert", rows, "--to", "trl", "--out", tmp_path / "there" / "trl.jsonl")) == 0
    assert (tmp_path / "there" / "trl.quarantine.jsonl").stat().st_size
    again = call("check", tmp_path, "--out", tmp_path, "--max-bad-fraction", "0.5")
    assert code(again) == 0
    there = call("check", tmp_path / "there", "--image-root", tmp_path, "--out", tmp_path / "out")
    assert code(there) == 0, there.output


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("check", "ROWS", "--format", "tlr"), 2),
        (("check", "ROWS", "--card", "nothing"), 2),
        (("check", "ROWS", "--image-root", "nothing"), 2),
        (("check", "ROWS", "--split", "train"), 2),
        (("check", "ROWS", "--out", "ROWS"), 2),
        (("convert", "ROWS", "--to", "povid", "--out", "new.jsonl"), 2),
        (("convert", "ROWS", "--to", "trl", "--out", "ROWS/new.jsonl"), 6),
        (("audit", "ROWS", "--out", "ROWS/new.json"), 6),
        (("view", "ROWS", "--out", "ROWS/new.html"), 6),
        (("check", "ROWS", "--out", "ROWS/new"), 6),
        (("fetch", "ROWS", "--out", "new.jsonl", "--image-root", "ROWS/new", "--host", "example.org"), 6),
        (("verify", "ROWS", "--report", "nothing.json"), 3),
        (("check", "nothing.jsonl"), 3),
    ],
)
def test_wrong_options_end_with_2_and_places_that_cannot_be_written_with_6(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], wanted: int
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*(argument.replace("ROWS", str(rows)) for argument in arguments))
    assert code(result) == wanted, result.exception


def test_verify_says_whether_data_is_what_was_checked(rows: Path, tmp_path: Path) -> None:
    assert code(call("check", rows, "--out", tmp_path / "out")) == 0
    report = tmp_path / "out" / "data_report.json"
    for options in ((), ("--full",)):
        good = call("verify", rows, "--report", report, *options)
        assert code(good) == 0
        assert "5 pairs are as" in good.output
    Image.new("RGB", (40, 30), "white").save(tmp_path / "2.png")
    assert code(call("verify", rows, "--report", report)) == 3


def test_check_warns_of_scores_that_are_the_wrong_way_round(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    rows = [canonical(f"r{number}", "a.png", score_chosen=1.0 if number == 3 else 4.0) for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call("check", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    assert code(result) == 0
    assert "1 of 5 scored pairs have the higher score on the rejected answer" in result.output


def test_check_and_audit_tell_of_answers_that_begin_with_the_question(tmp_path: Path) -> None:
    asked = "What stands on the table?"
    rows = [{"prompt": asked, "chosen": f"{asked} A cup.", "rejected": f"{asked} A dog."}, PLAIN]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in (("check", tmp_path / "rows.jsonl", "--out", tmp_path / "out"), ("audit", tmp_path / "rows.jsonl")):
        result = call(*command)
        assert code(result) == 0
        assert "begin with the whole question" in result.output.replace("\n", " ")


PLAIN = {"prompt": "What is here?", "chosen": "A cup.", "rejected": "A dog."}
PUT_ASIDE = {
    "a video that nobody has": ({"youtube_id": "dQw4w9WgXcQ"}, "video"),
    "a second image": ({"image": "0.png", "retrieved_image": "1.png"}, "unread_images"),
    "boxes": ({"image": "0.png", "objects": {"bbox": [[1, 2, 3, 4]]}}, "boxes"),
    "an unknown name": ({"attachment": "1.png"}, "unread_media"),
    "a place without an image": ({"prompt": "<image>\nWhat is here?"}, "literal_placeholder"),
    "a place of two tags": ({"prompt": "(<image>./</image>)\nWhat is here?"}, "literal_placeholder"),
    "an image that only the id names": ({"id": "1.png"}, "unread_media"),
    "an image in meta": ({"meta": {"image": "1.png"}}, "unread_images"),
    "choices that only the answers name": ({"choices": ["A cup.", "A dog."]}, "unread_turns"),
    "earlier turns": ({"thread": [{"role": "user", "content": "Hi"}]}, "unread_turns"),
    "a template's beginning of the answer": ({"prompt": "[INST] What is here? [/INST]"}, "chat_markup"),
}


def test_no_row_loses_its_image_in_silence(rows: Path, tmp_path: Path) -> None:
    """Rows with an image under another name are used with it; what cannot be read is put aside by name; the rest is
    told with counts."""
    used = [
        {**PLAIN, "img_path": "0.png", "origin": "web"},
        {**PLAIN, "image_file": "1.png", "origin": "web", "license": "CC0"},
        {**PLAIN, "system": "Be brief."},
    ]
    mixed = tmp_path / "mixed.jsonl"
    bad = [{**PLAIN, **changes} for changes, _ in PUT_ASIDE.values()]
    mixed.write_text("".join(json.dumps(row) + "\n" for row in [*used, *bad]))
    out = tmp_path / "checked"
    result = call("check", mixed, "--out", out, "--workers", 1)
    assert code(result) == 3
    assert "column 'youtube_id' holds video" in str(result.exception)
    report = json.loads((out / "data_report.json").read_text())
    assert (report["read"], report["used"], report["quarantined"]) == (len(used) + len(bad), len(used), len(bad))
    assert report["reasons"] == Counter(reason for _, reason in PUT_ASIDE.values())
    assert report["images_per_pair"] == {"0": 1, "1": 2}
    assert report["left_over"] == {"origin": 2, "license": 1}
    assert "origin (2 rows)" in result.output
    result = call("check", mixed, "--out", out, "--workers", 1, "--max-bad-fraction", 1)
    assert code(result) == 0, result.exception

    written = tmp_path / "written.jsonl"
    result = call("convert", mixed, "--to", "canonical", "--out", written)
    assert code(result) == 0, result.exception
    assert f"{len(used) + len(bad)} rows read, {len(used)} pairs written" in " ".join(result.output.split())
    assert "origin (2)" in result.output
    found = [json.loads(line) for line in written.read_text().splitlines()]
    assert [row["images"] for row in found] == [["0.png"], ["1.png"], []]
    assert found[2]["prompt"][0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    quarantined = (tmp_path / "written.quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in quarantined] == [reason for _, reason in PUT_ASIDE.values()]


def test_tools_survive_every_target_or_are_counted(rows: Path, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "zoom", "parameters": {"type": "object"}}}]
    given = tmp_path / "given.jsonl"
    plain, switched = {"tools": tools}, {"tools": tools, "chat_template_kwargs": {"enable_thinking": False}}
    given.write_text("".join(json.dumps({**PLAIN, **more}) + "\n" for more in (plain, switched)))
    for target in ("canonical", "trl", "ms_swift", "llamafactory_alpaca", "llamafactory_sharegpt"):
        there = tmp_path / target / "there.json"
        result = call("convert", given, "--to", target, "--out", there)
        assert code(result) == 0, result.exception
        back = tmp_path / target / "back.jsonl"
        source = f"{there.parent}" if target.startswith("llamafactory") else there
        assert code(call("convert", source, "--to", "canonical", "--out", back)) == 0
        found = [json.loads(line)["template_kwargs"] for line in back.read_text().splitlines()]
        whole = target in ("canonical", "trl")
        assert found == [{"tools": tools}, {"tools": tools, "enable_thinking": False}][: 2 if whole else 1]
        assert ("no place for template_kwargs (1)" in " ".join(result.output.split())) is not whole
