"""``train.samples``: a training that answers prompts on the way is the same training, and what it answers is true."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from mmpref.cli.main import main
from mmpref.errors import NonFiniteError
from mmpref.generation import AnswerSettings, TransformersAnswerer
from mmpref.recipe.loading import load_recipe
from mmpref.records import EvalSample, ImageRef, user_turn
from mmpref.rundir.content import SAMPLES
from mmpref.rundir.folder import RunDir
from mmpref.training.run.callbacks import RunCallbacks
from mmpref.training.run.run import train
from mmpref.training.run.sample_answers import PromptSampler
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.integration.killing import in_child
from tests.tiny_vlms import build

# with dropout and recomputed activations, which a forward between two steps could disturb
CHANGES = (
    "train.per_device_train_batch_size=8", "train.learning_rate=3e-3", "train.warmup_steps=0", "train.logging_steps=1",
    "train.max_steps=4", "train.eval_steps=2", "train.use_cpu=true", "train.gradient_checkpointing=true",
    "adapter={kind: lora, rank: 4, dropout: 0.2}", "tune={language: lora, projector: freeze, vision: freeze}",
    "cpu_threads=1",
)  # fmt: skip
SAVED = ("train.save_steps=2", "train.save_total_limit=null")
ASKED = "train.samples={count: 3, kl: 2, max_new_tokens: 12}"


def lines_of(run: Path, name: str = SAMPLES) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]


def measured(run: Path) -> list[dict[str, float]]:
    """The metrics of samples, as the run has logged them."""
    logged = [line for line in lines_of(run, "metrics.jsonl") if "samples/n" in line]
    return [{name: value for name, value in line.items() if name != "epoch"} for line in logged]


@pytest.fixture(scope="module")
def asked(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("asked") / "run"
    assert main(place.training("demo_dpo", out, *CHANGES, *SAVED, ASKED)) == 0
    return out


def assert_same_training(one: Path, other: Path) -> None:
    first, second = (load_file(run / "model" / "adapter_model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("pairs.parquet", "pairs_eval.parquet"):
        assert read_pair_log(one / name) == read_pair_log(other / name)


def test_the_training_is_the_same_to_the_bit(place: Place, asked: Path, tmp_path: Path) -> None:
    assert main(place.training("demo_dpo", tmp_path / "run", *CHANGES)) == 0
    assert_same_training(asked, tmp_path / "run")
    assert not (tmp_path / "run" / SAMPLES).exists()
    assert not measured(tmp_path / "run")


def test_every_prompt_is_answered_at_every_evaluation(asked: Path) -> None:
    lines = lines_of(asked)
    assert [line["step"] for line in lines] == [0] * 9 + [2] * 9 + [4] * 9
    assert [line["kind"] for line in lines[:3]] == ["greedy", "drawn", "drawn"]
    prompts = [[line["id"] for line in lines if line["step"] == step] for step in (0, 2, 4)]
    assert prompts[0] == prompts[1] == prompts[2]
    assert all(line["images"] and line["prompt"] and 1 <= line["tokens"] <= 12 for line in lines)
    assert all(line["cut"] == (line["tokens"] == 12) for line in lines if line["tokens"] == 12 or line["cut"])
    drawn = [line["text"] for line in lines if line["kind"] == "drawn"]
    assert len(set(drawn)) > len(drawn) / 2  # an untrained model: they are drawn, each anew


def test_the_kl_is_zero_at_the_start_and_the_mean_of_the_lines_afterwards(asked: Path) -> None:
    metrics, lines = measured(asked), lines_of(asked)
    assert [line["step"] for line in metrics] == [0, 2, 4]
    assert metrics[0]["samples/kl_k1"] == metrics[0]["samples/kl_k3"] == 0.0
    assert metrics[2]["samples/kl_k3"] > 0
    for found in metrics:
        drawn = [line for line in lines if line["kind"] == "drawn" and line["step"] == found["step"]]
        assert found["samples/n"] == len(drawn) == 6
        assert found["samples/kl_k1"] == pytest.approx(
            sum(line["logp"] - line["ref_logp"] for line in drawn) / 6, abs=1e-9
        )
        assert all(line["k3"] >= 0 and math.isfinite(line["k1"]) for line in drawn)


def test_greedy_answers_are_those_of_mmpref_eval(place: Place, asked: Path) -> None:
    said = [line for line in lines_of(asked) if line["kind"] == "greedy" and line["step"] == 4]
    samples = [
        EvalSample(
            id=line["id"],
            images=tuple(ImageRef(path=path) for path in line["images"]),
            prompt=user_turn(line["prompt"], num_images=1),
        )
        for line in said
    ]
    answerer = TransformersAnswerer(
        str(asked / "model"), AnswerSettings(max_new_tokens=12), images_root=place.world.root
    )
    answers = {answer.id: (answer.text, answer.cut) for answer in answerer.answer(samples)}
    assert answers == {line["id"]: (line["text"], line["cut"]) for line in said}
    start = {line["id"]: line["text"] for line in lines_of(asked) if line["kind"] == "greedy" and not line["step"]}
    assert any(start[name] != text for name, (text, _) in answers.items())  # or any step's would do


def killed_at(step: int) -> None:
    """Kill this process in the middle of the answers of a step."""
    asks = PromptSampler._written

    def killed(sampler: PromptSampler, at: int, asked: Any) -> Any:
        found = asks(sampler, at, asked)
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    PromptSampler._written = killed  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4])
def test_a_run_killed_while_it_answers_ends_with_the_same_lines(
    place: Place, asked: Path, tmp_path: Path, step: int
) -> None:
    command = place.training("demo_dpo", tmp_path / "run", *CHANGES, *SAVED, ASKED)
    assert in_child(command, before=lambda: killed_at(step)) == -signal.SIGKILL
    assert lines_of(tmp_path / "run") == lines_of(asked)[: 9 * (step // 2)]
    assert main([*command, "--resume" if step == 4 else "--overwrite"]) == 0
    assert (tmp_path / "run" / SAMPLES).read_text() == (asked / SAMPLES).read_text()
    assert measured(tmp_path / "run") == measured(asked)
    assert_same_training(asked, tmp_path / "run")


@pytest.mark.slow
def test_a_resume_without_samples_keeps_those_that_are_there(place: Place, asked: Path, tmp_path: Path) -> None:
    shutil.copytree(asked, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    for made in (run.model, run.checkpoints / "step-4"):
        shutil.rmtree(made)
    run.set_state("running")
    assert main([*place.training("demo_dpo", run.path, *CHANGES, *SAVED), "--resume"]) == 0
    assert lines_of(run.path) == [line for line in lines_of(asked) if line["step"] <= 2]
    assert (run.checkpoints / "step-4" / SAMPLES).is_file()


@pytest.mark.slow
def test_steps_of_their_own_and_no_held_out_pairs(place: Place, tmp_path: Path) -> None:
    changes = (*CHANGES, "data.eval=[]", "train.eval_steps=null")
    more = "train.samples={count: 2, kl: 0, max_new_tokens: 4, steps: 3}"
    assert main(place.training("demo_dpo", tmp_path / "run", *changes, more)) == 0
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [0, 0, 3, 3, 4, 4]
    assert [line["step"] for line in measured(tmp_path / "run")] == [0, 3, 4]
    assert all("samples/kl_k1" not in line for line in measured(tmp_path / "run"))


@pytest.mark.parametrize(
    "changes",
    [
        ("loss.name=simpo", "reference.kind=frozen_copy", "adapter={kind: none}", "tune={language: full}"),
        pytest.param(("adapter={kind: lora, rank: 4, init: pissa}",), marks=pytest.mark.slow),  # copied_adapter
    ],
)
def test_other_references_give_a_kl_too(place: Place, tmp_path: Path, changes: tuple[str, ...]) -> None:
    settings = (*CHANGES, "train.max_steps=2", ASKED, *changes)
    assert main(place.training("demo_dpo", tmp_path / "run", *settings)) == 0
    first, last = measured(tmp_path / "run")
    assert abs(first["samples/kl_k1"]) < 1e-4
    assert last["samples/kl_k3"] > 1e-6
    assert RunDir(tmp_path / "run").manifest()["reference"]


def test_a_cache_measures_no_kl_and_says_so_once(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*CHANGES, "train.max_steps=1", ASKED, "reference.kind=cache")
    assert main(place.training("demo_dpo", tmp_path / "run", *settings)) == 0
    assert capsys.readouterr().out.count("the KL to the reference is not measured") == 1
    assert {line["kind"] for line in lines_of(tmp_path / "run")} == {"greedy"}
    assert all("samples/kl_k1" not in line for line in measured(tmp_path / "run"))


class Spoilt(TrainerCallback):
    """Makes a weight NaN after the first step, before the answers to it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        next(iter(self.model.parameters())).data.fill_(float("nan"))


@pytest.mark.slow
def test_weights_that_are_no_numbers_end_the_run_by_the_step(place: Place, tmp_path: Path) -> None:
    _, recipe, *rest = place.training("demo_dpo", tmp_path / "run", *CHANGES, "train.samples={count: 2, steps: 1}")
    callbacks = RunCallbacks(on_trainer=lambda trainer: trainer.add_callback(Spoilt(trainer.model)))
    with pytest.raises(NonFiniteError, match=r"step 1, train\.samples: .*lower train\.learning_rate"):
        train(load_recipe(recipe, rest), callbacks=callbacks)
    assert {line["step"] for line in lines_of(tmp_path / "run")} == {0}


@pytest.mark.parametrize(
    "family",
    ["qwen2_5_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("text", "llava_next", "qwen3_vl"))],
)
def test_other_families_answer_as_they_are_evaluated(place: Place, tmp_path: Path, family: str) -> None:
    """With image positions of their own (mrope), and without images; prompts of different lengths in one batch."""
    build(family, tmp_path / "model")
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()[:8]]
    for number, row in enumerate(rows):
        parts = row["prompt"][-1]["content"]
        parts[-1]["text"] += " please" * number
        if family == "text":
            row["images"], row["prompt"][-1]["content"] = [], [part for part in parts if part["type"] == "text"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = (
        *(change for change in CHANGES if not change.startswith(("tune", "adapter"))),
        f"model.path={tmp_path / 'model'}",
        f"data.train={tmp_path / 'pairs.jsonl'}", "data.eval=[]", "tune={language: full, projector: freeze}",
        "train.max_steps=1", "train.eval_steps=null",
        "train.samples={count: 4, kl: 1, max_new_tokens: 6}",
    )  # fmt: skip
    assert main(place.training("demo_dpo", tmp_path / "run", *changes)) == 0
    said = [line for line in lines_of(tmp_path / "run") if line["kind"] == "greedy" and line["step"] == 1]
    assert len(said) == 4
    samples = [
        EvalSample(
            id=line["id"],
            images=tuple(ImageRef(path=path) for path in line["images"]),
            prompt=user_turn(line["prompt"], num_images=len(line["images"])),
        )
        for line in said
    ]
    settings = AnswerSettings(max_new_tokens=6, batch_size=1)
    answerer = TransformersAnswerer(str(tmp_path / "run" / "model"), settings, images_root=place.world.root)
    assert {answer.id: answer.text for answer in answerer.answer(samples)} == {
        line["id"]: line["text"] for line in said
    }
