"""From bad rows to a training run: what a check and a refused run advise is carried out as it is printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import Place

Run = Callable[..., tuple[int, str]]
GOOD, BAD = 12, 6
ASIDE = [(4, "identical_pair"), (6, "json"), (10, "empty_response"), (12, "image_count"), (16, "image_decode"),
         (17, "image_missing")]  # fmt: skip
"""Line in the file and reason of each bad row; the file begins with two blank lines."""


def row(number: int, **changes: Any) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    prompt = [{"role": "user", "content": content}]
    pair = {"id": f"r{number}", "images": [f"{number}.jpg"], "prompt": prompt, "chosen": f"A cup {number}."}
    return {**pair, "rejected": "A dog.", **changes}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eighteen rows of which six are bad, in a file with a byte order mark, CRLF and blank lines, named with blanks."""
    images = tmp_path / "my images"
    images.mkdir()
    for number in range(GOOD + BAD):
        Image.effect_noise((64, 48), 60).convert("RGB").save(images / f"{number}.jpg")
    lines = [json.dumps(row(number)) for number in range(GOOD + BAD)]
    lines[1] = json.dumps(row(1, chosen="A dog."))
    lines[3] = '{"id": "r3", "images": ["3.jpg"],'
    lines[7] = json.dumps(row(7, chosen=" "))
    lines[9] = json.dumps(row(9, prompt=[{"role": "user", "content": "What is here?"}]))
    half = images / "13.jpg"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    (images / "14.jpg").unlink()
    content = "\r\n".join(["", "   ", *lines, ""])
    (tmp_path / "my pairs.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """One command: its exit code, and all that it printed."""

    def call(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(list(words))
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call


def commands(text: str) -> list[list[str]]:
    """The commands of a message as a shell would split them, without the program's name."""
    return [shlex.split(line)[1:] for line in re.findall(r"^  (mmpref .+)$", text, re.MULTILINE)]


def added(text: str) -> list[list[str]]:
    """The keys that a message says to add to the command that was given."""
    return [shlex.split(line) for line in re.findall(r"^  ('?data\..+)$", text, re.MULTILINE)]


def training(place: Place, output: str) -> list[str]:
    """What every run here says beside its data."""
    return [f"model.path={place.model}", "data.eval=[]", f"output={output}", "train.max_steps=1"]


def test_the_commands_that_a_check_ends_with_lead_to_a_run(folder: Path, place: Place, run: Run) -> None:
    code, told = run("data", "check", "my pairs.jsonl", "--image-root", "my images")
    assert code == 3
    assert f"{BAD} of {GOOD + BAD} rows cannot be used" in told
    listed = [json.loads(line) for line in (folder / "data_check/quarantine.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["reason"]) for entry in listed] == ASIDE
    assert "my pairs.jsonl, line 4 (id 'r1'): identical_pair" in told
    train, fix, again = commands(told)
    assert again == ["data", "check", "my pairs.jsonl", "--image-root", "my images"]

    code, told = run(*[word.replace("RECIPE", "demo_dpo") for word in train], *training(place, "held"))
    assert code == 0, told
    manifest = RunDir(folder / "held").manifest()
    assert (manifest["pairs"], manifest["quarantined"]) == (GOOD, BAD)
    lines = RunDir(folder / "held").quarantine_file.read_text().splitlines()
    assert [(entry["line"], entry["reason"]) for entry in map(json.loads, lines)] == ASIDE

    code, told = run(*fix)
    assert code == 0
    (clean,) = commands(told)
    code, told = run(*[word.replace("RECIPE", "demo_dpo") for word in clean], *training(place, "clean"))
    assert code == 0, told
    assert RunDir(folder / "clean").manifest()["pairs"] == GOOD
    code, told = run("data", "check", "my pairs.clean.jsonl", "--out", "second")
    assert code == 0
    assert len(commands(told)) == 1


def test_a_clean_file_with_its_images_beside_it_can_be_moved(folder: Path, run: Run) -> None:
    code, told = run(
        "data", "check", "my pairs.jsonl", "--image-root", "my images", "--fix", "new/good.jsonl", "--copy-images"
    )
    assert code == 0, told
    shutil.rmtree("my images")
    Path("new").rename("moved")
    code, told = run("data", "check", "moved/good.jsonl")
    assert code == 0, told
    assert f"{GOOD} decoded" in told
    assert run("data", "check", "moved/good.jsonl", "--fix", "moved/good.jsonl")[0] == 2
    assert run("data", "check", "moved/good.jsonl", "--copy-images")[0] == 2


def test_a_clean_file_beside_other_folders_names_the_image_root(folder: Path, place: Place, run: Run) -> None:
    code, told = run("data", "check", "my pairs.jsonl", "--image-root", "my images", "--fix", "elsewhere/good.jsonl")
    assert code == 0
    (train,) = commands(told)
    assert f"data.root={folder / 'my images'}" in train
    code, told = run(*[word.replace("RECIPE", "demo_dpo") for word in train], *training(place, "moved"))
    assert code == 0, told


def test_what_a_refused_run_advises_leads_to_one(folder: Path, place: Place, run: Run) -> None:
    asked = ["train", "demo_dpo", "data.train=my pairs.jsonl", "data.root=my images"]
    code, told = run(*asked, *training(place, "one"))
    assert code == 3
    assert "image_decode 1" in told
    assert "my pairs.jsonl, line 10 (id 'r7'): empty_response: 'chosen' is empty" in told
    assert "all of them: one/quarantine.jsonl" in told
    share, manifest = added(told)
    check, fix = commands(told)
    code, text = run(*asked, *share, *training(place, "two"))
    assert code == 0, text
    assert run(*check)[0] == 3
    code, text = run(*asked, *manifest, *training(place, "three"))
    assert code == 0, text
    assert run(*fix)[0] == 0
    assert RunDir(folder / "two").manifest()["pairs"] == RunDir(folder / "three").manifest()["pairs"] == GOOD

    # what the check put aside is left out; what it did not know of is refused
    Image.new("RGB", (64, 48)).save("my images/0.jpg")
    code, text = run(*asked, *manifest, *training(place, "four"))
    assert code == 3
    assert "the images of my pairs.jsonl are not those of data_check" in text
    Path("my pairs.jsonl").write_text(json.dumps(row(0)) + "\n")
    code, text = run(*asked, *manifest, *training(place, "five"))
    assert code == 3
    assert "its bytes have changed" in text


def test_a_broken_image_of_held_out_pairs_is_found_at_the_start_with_its_cure(
    folder: Path, place: Place, run: Run
) -> None:
    for name, numbers in (("train", range(15, 18)), ("eval", (10, 11, 13))):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))
    asked = ["train", "demo_dpo", "data.train=train.jsonl", "data.root=my images", "data.eval=eval.jsonl"]
    more = [f"model.path={place.model}", "train.max_steps=1"]
    code, told = run(*asked, *more, "output=one")
    assert code == 3
    assert "eval.jsonl, line 3 (id 'r13'): image_decode" in told
    (fix,), (cure,) = commands(told), added(told)
    assert run(*fix)[0] == 0
    code, told = run(*asked, *more, *cure, "output=two")
    assert code == 0, told


def test_bad_held_out_rows_leave_the_check_of_the_others_alone(folder: Path, place: Place, run: Run) -> None:
    assert run("data", "check", "my pairs.jsonl", "--image-root", "my images")[0] == 3
    Path("eval.jsonl").write_text(json.dumps(row(2, id="e2")) + "\n" + json.dumps(row(5, id="e5", chosen="")) + "\n")
    asked = ["train", "demo_dpo", "data.train=my pairs.jsonl", "data.root=my images", "data.manifest=data_check"]
    asked += ["data.eval=eval.jsonl", f"model.path={place.model}", "train.max_steps=1"]
    code, told = run(*asked, "output=one")
    assert code == 3
    (fix,), (cure,) = commands(told), added(told)
    assert run(*fix)[0] == 0
    code, told = run(*asked, *cure, "output=two")
    assert code == 0, told
    assert RunDir(folder / "two").manifest()["pairs"] == GOOD


def test_ids_that_stand_twice_are_put_aside_or_made_new_as_a_refused_run_advises(
    folder: Path, place: Place, run: Run
) -> None:
    rows = [row(2), row(4), row(5, id="r2")]
    Path("twice.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    asked = ["train", "demo_dpo", "data.train=twice.jsonl", "data.root=my images"]
    code, told = run(*asked, *training(place, "one"))
    assert code == 3
    assert "'r2' in twice.jsonl, line 1 and in twice.jsonl, line 3" in told
    (check, renamed), (manifest,) = commands(told), added(told)
    assert run(*check)[0] == 3
    code, told = run(*asked, *manifest, *training(place, "two"))
    assert code == 0, told
    assert run(*renamed)[0] == 0
    code, told = run(*asked, "data.train=twice.new_ids.jsonl", *training(place, "three"))
    assert code == 0, told
    assert [RunDir(folder / name).manifest()["pairs"] for name in ("two", "three")] == [2, 3]


def test_fix_writes_over_nothing(folder: Path, run: Run) -> None:
    Path("mine.jsonl").write_text("my own\n")
    asked = ["data", "check", "my pairs.jsonl", "--image-root", "my images"]
    code, told = run(*asked, "--fix", "mine.jsonl")
    assert (code, Path("mine.jsonl").read_text()) == (2, "my own\n")
    assert "is there already" in told
    Path("my pairs.clean.jsonl").write_text("my own too\n")
    _, told = run(*asked)
    fix = commands(told)[1]
    assert fix[-2:] == ["--fix", "my pairs.clean-2.jsonl"]
    assert run(*fix)[0] == 0


def test_headers_alone_are_looked_at_where_that_is_asked_for(folder: Path, place: Place, run: Run) -> None:
    Path("pairs.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in (12, 13)))
    asked = ["train", "demo_dpo", "data.train=pairs.jsonl", "data.root=my images", *training(place, "one")]
    code, told = run(*asked, "data.check_images=header", "preflight=false")
    assert code == 3
    assert "row 'r13' of pairs: image '13.jpg' cannot be decoded" in told
    assert "mmpref data check finds such rows" in told


def test_an_image_that_is_lost_while_training_costs_no_step(folder: Path, place: Place, run: Run) -> None:
    Path("pairs.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(10, 14)))
    half = Path("my images/13.jpg").read_bytes()
    Image.effect_noise((64, 48), 60).convert("RGB").save("my images/13.jpg")
    whole = Path("my images/13.jpg").read_bytes()
    asked = ["train", "demo_dpo", "data.train=pairs.jsonl", "data.root=my images", "data.check_images=header"]
    asked += [f"model.path={place.model}", "data.eval=[]", "train.per_device_train_batch_size=1", "preflight=false"]

    Path("my images/13.jpg").write_bytes(half)
    code, told = run(*asked, "output=two", "seed=1")
    assert code == 3
    back = "put the row's image or video back and go on with --resume"
    found = re.search(rf"everything up to step (\d) is in (\S+): {back}", told)
    assert found is not None, told
    assert Path(found[2]).is_dir()
    Path("my images/13.jpg").write_bytes(whole)
    assert run(*asked, "output=two", "seed=1", "--resume")[0] == 0
    assert run(*asked, "output=three", "seed=1")[0] == 0
    weights = [Path(name, "model/model.safetensors").read_bytes() for name in ("two", "three")]
    assert weights[0] == weights[1]
