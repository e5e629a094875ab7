"""What a recipe says is what trains: the loss follows its overrides, is told and kept; a quantile stays its number."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainingArguments

from mmpref import PreferenceTrainer, TrainerOptions
from mmpref.cli.main import main
from mmpref.losses import resolve
from mmpref.losses.loss_line import loss_line
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.folder import RunDir
from tests.advice import alternatives, followed
from tests.integration.conftest import Place

FAST = ("train.per_device_train_batch_size=8", "train.max_steps=1", "train.warmup_steps=0", "data.eval=[]",
        "preflight=false")  # fmt: skip


def rows(place: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.world.pairs.read_text().splitlines()]


def write(file: Path, content: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in content))
    return file


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    found = capsys.readouterr()
    return (found.out + found.err).splitlines()


def test_a_loss_named_on_the_command_line_is_what_trains_and_is_told_in_one_line(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dpo", "adadpo"):
        out = tmp_path / name
        assert main(place.training("demo_uni_dpo", out, *FAST, f"loss.name={name}")) == 0
        (line,) = [text for text in said(capsys) if text.startswith("loss: ")]
        manifest = RunDir(out).manifest()
        assert manifest["loss"] == resolve({"name": name})
        assert manifest["loss_line"] == line
        recipe = yaml.safe_load(RunDir(out).recipe_file.read_text())
        assert recipe["loss"] == manifest["loss"]
        assert manifest["loss"]["uni"] is None
        columns = json.loads(RunDir(out).metrics_file.read_text().splitlines()[-1])
        assert not any(key.startswith("uni/") for key in columns)
        balance = "balance AdaDPO (token, share 1, ceiling 2)" if name == "adadpo" else "no balance"
        assert line == f"loss: dpo, beta 0.1, summed log-probs; no weights; {balance}; reference: frozen copy"
        # the same line before anything is trained
        assert main(["plan", "demo_uni_dpo", f"model.path={place.model}", f"loss.name={name}"]) == 0
        assert line in said(capsys)
    assert main(["doctor", *place.training("demo_uni_dpo", tmp_path / "x", *FAST, "loss.name=adadpo")[1:]]) == 0
    assert any(text.endswith(line) for text in said(capsys))


def test_a_quantile_of_the_scores_is_settled_and_stays_when_the_run_goes_on(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, content = tmp_path / "run", rows(place)
    middle = statistics.median(row["score_chosen"] for row in content)
    file = write(tmp_path / "pairs.jsonl", content)
    arguments = place.training("demo_uni_dpo", out, *FAST, f"data.train={file}", "loss.uni.tau_good=median",
                               "train.save_steps=1", "train.max_steps=2")  # fmt: skip
    assert main(arguments) == 0
    manifest = RunDir(out).manifest()
    assert manifest["tau_good"] == {"rule": "median", "value": middle, "scores": len(content)}
    assert manifest["loss"]["uni"]["tau_good"] == middle
    assert yaml.safe_load(RunDir(out).recipe_file.read_text())["loss"]["uni"]["tau_good"] == middle
    assert f"from score {middle:g} (median of {len(content)} training scores)" in manifest["loss_line"]
    capsys.readouterr()

    RunDir(out).set_state("stopped")
    last = sorted((out / "checkpoints").iterdir())[-1]
    for found in last.iterdir():
        found.unlink()
    last.rmdir()
    write(file, [{**row, "score_chosen": row["score_chosen"] / 2} for row in content])
    assert main([*arguments, "--resume"]) == 6  # other data
    assert main([*arguments, "--resume", "loss.uni.tau_good=q25"]) == 6
    (line,) = [text for text in said(capsys) if "tau_good=median" in text]
    assert alternatives(line) == [["loss.uni.tau_good=median"]]
    assert main([*arguments, "--resume", "--allow-data-change"]) == 0
    assert f"loss.uni.tau_good stays {middle:g} (median of {len(content)} training scores); the scores now give" in (
        "\n".join(said(capsys))
    )
    assert RunDir(out).manifest()["tau_good"]["value"] == middle
    assert RunDir(out).manifest()["loss"]["uni"]["tau_good"] == middle


@pytest.mark.parametrize(("number", "told"), [("50", "none: no pair gets"), ("-1", "every one: this gate is always")])
def test_a_tau_good_on_another_scale_than_the_scores_is_told(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str, told: str
) -> None:
    arguments = place.training("demo_uni_dpo", tmp_path / "run", *FAST, f"loss.uni.tau_good={number}")
    assert main(arguments) == 0
    (line,) = [text for text in said(capsys) if "chosen scores" in text]
    assert f"loss.uni.tau_good {number} is reached by {told}" in line
    assert alternatives(line) == [["loss.uni.tau_good=median"]]
    advised = [*place.training("demo_uni_dpo", tmp_path / "other", *FAST), *alternatives(line)[0]]
    assert main(advised) == 0
    assert not [text for text in said(capsys) if "chosen scores" in text]


def test_the_run_s_own_recipe_resumes_it(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(place.training("demo_uni_dpo", out, *FAST, "loss.uni.tau_good=q40", "train.save_steps=1")) == 0
    RunDir(out).set_state("stopped")
    assert main(["train", str(RunDir(out).recipe_file), "--resume"]) == 0


@pytest.mark.parametrize(
    "loss", [["loss.name=uni_dpo"], ["loss.name=uni_adadpo", "loss.uni.tau_good=median"]], ids=" ".join
)
def test_pairs_without_scores_train_by_every_advice_that_the_refusal_gives(
    place: Place, tmp_path: Path, loss: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bare = [{key: value for key, value in row.items() if not key.startswith("score_")} for row in rows(place)[:8]]
    file = write(tmp_path / "bare.jsonl", bare)
    given = [*place.training("demo_uni_dpo", tmp_path / "run", *FAST)[2:], f"data.train={file}", *loss]
    assert main(["train", "demo_uni_dpo", *given]) == 3
    message = " ".join(said(capsys))
    ways = alternatives(message)
    assert len(ways) == 3
    assert "`loss.name=" in message
    assert "and no key below loss.uni" in message
    for number, words in enumerate(ways):
        kept = [entry for entry in given if not ("loss.uni=null" in words and entry.startswith("loss.uni."))]
        assert main(["train", "demo_uni_dpo", *followed(kept, [*words, f"output={tmp_path / str(number)}"])]) == 0


def test_a_reference_that_the_loss_does_not_have_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*place.training("demo_dpo", tmp_path / "run", *FAST)[2:], "reference.kind=cache", "loss.name=simpo"]
    assert main(["train", "demo_dpo", *given]) == 2
    (words,) = alternatives(" ".join(said(capsys)))
    assert main(["train", "demo_dpo", *followed(given, words)]) == 0
    assert RunDir(tmp_path / "run").manifest()["loss_line"].endswith("reference: none")


def test_from_python_a_quantile_is_settled_and_images_are_found_below_the_root(place: Place, tmp_path: Path) -> None:
    content = rows(place)[:8]
    file = write(tmp_path / "elsewhere.jsonl", content)
    args = TrainingArguments(str(tmp_path / "out"), per_device_train_batch_size=8, max_steps=1, use_cpu=True,
                             report_to="none", save_strategy="no", disable_tqdm=True)  # fmt: skip
    trainer = PreferenceTrainer(
        str(place.model), args, objective={"name": "uni_dpo", "uni": {"tau_good": "q50"}}, train_pairs=file,
        options=TrainerOptions(image_root=place.world.root),
    )  # fmt: skip
    assert trainer.objective.settings["uni"]["tau_good"] == statistics.median(row["score_chosen"] for row in content)
    trainer.train()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"name": "dpo"}, "loss: dpo, beta 0.1, summed log-probs; no weights; no balance; reference: r"),
        ({"name": "simpo"}, "loss: simpo, beta 2, mean log-probs, gamma_beta_ratio 0.5; no weights; no balance"),
        ({"name": "adadpo_split"}, "balance AdaDPO (token, share 0.5, clip both sides 10, without reference)"),
        ({"name": "adadpo", "ada": {"clip": None, "target_ratio": 2.0}}, "(token, share 1, no clip, target_ratio 2)"),
        ({"name": "adadpo", "ada": {"granularity": "power", "length_power": 0.5}}, "(power 0.5, share 1, ceiling 2)"),
        ({"name": "uni_dpo", "uni": {"eta": None, "perf_mode": "none", "nll_lambda": 0}},
         "weights Uni-DPO (no quality weight, no performance weight, no c-NLL)"),
        ({"name": "uni_dpo", "uni": {"perf_mode": "focal"}}, "quality eta 0.7, performance focal gamma 3, c-NLL"),
        ({"name": "uni_dpo", "uni": {"gamma": 0, "perf_detach": True}}, "performance stabilized gamma 0, c-NLL"),
        ({"name": "adadpo", "ada": {"form": "sum"}}, "balance AdaDPO (token, ceiling 2, form sum)"),
        ({"name": "uni_adadpo", "uni": {"perf_detach": True}, "ada": {"balance_perf": False}},
         "balance AdaDPO (token, share 1, ceiling 2); reference"),
        ({"name": "uni_adadpo", "uni": {"tau_good": 3}, "ada": {"balance_perf": False}},
         "c-NLL 0.001 from score 3); balance AdaDPO (token, share 1, ceiling 2, performance weight not balanced)"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::mmpref.losses.settings.SuspiciousLossWarning")
def test_the_line_tells_what_differs(loss: dict[str, Any], words: str) -> None:
    assert words in loss_line(resolve(loss), reference="r")


def test_every_component_of_uni_dpo_goes_off_by_one_key() -> None:
    off = {"eta": ("null", "quality"), "perf_mode": ("none", "performance"), "nll_lambda": ("0", "c-NLL")}
    for key, (value, part) in off.items():
        loss = load_recipe("demo_uni_dpo", [f"loss.uni.{key}={value}"]).loss.as_mapping()
        assert f"no {part}" in loss_line(resolve(loss), reference="r")
