"""KTO's estimate and the running shift of anchors are of the whole update, whatever it is made of, and of no other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from mmpref.data.single_answers import single_answers
from mmpref.errors import CheckpointError
from mmpref.models import Tuning, choose_reference, prepare
from mmpref.models.logps.answer_logps import answer_sums
from mmpref.models.logps.reference import eval_mode
from mmpref.records import PreferencePair
from mmpref.training import PreferenceTrainer, TrainerOptions
from mmpref.training.trainer.pair_log import read_pair_log
from mmpref.training.trainer.update_constants import FILE
from tests.plain_forward import build_deep, collator_for, relative
from tests.tiny_vlms import pair

KTO = {"base": "kto", "beta": 0.3}
SHIFT = {"base": "dpo", "beta": 0.3, "anchor": {"chosen": 0.5, "rejected": 0.5, "delta": "running"}}
ROWS = [
    pair("a", chosen="a red square .", rejected="two yellow boxes ."),
    pair("b", images=("60x60-2",), chosen="a dog and a box .", rejected="a red dog ."),
    pair("c", images=(), question="what is red ?", chosen="a box .", rejected="the dog is yellow ."),
    pair("d", images=("28x28-3",), chosen="a yellow square .", rejected="it is a dog ."),
]
SIX = [*ROWS, *(dataclasses.replace(row, id=f"{row.id}2", chosen=f"{row.chosen} yes .") for row in ROWS[:2])]


def trainer_for(
    folder: Path, loss: Any, *, size: int, steps: int, rows: list[PreferencePair] = ROWS, eval_rows: Any = (),
    **options: Any,
) -> PreferenceTrainer:  # fmt: skip
    """A trainer whose policy is not its reference."""
    loaded = prepare(build_deep("qwen2_vl"), Tuning(projector="full", language="full"))
    reference = choose_reference(loaded.model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(12)  # with which mismatched answers are likelier than before: else the estimate is 0
        for parameter in loaded.model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.15)
    of_collator = {key: options.pop(key) for key in ("row_tokens",) if key in options}
    of_trainer = {key: options.pop(key) for key in ("skip_nonfinite_steps",) if key in options}
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=size, gradient_accumulation_steps=steps, seed=3,
        lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, use_cpu=True, report_to=[],
        disable_tqdm=True, logging_steps=1,
        **{"learning_rate": 3e-3, "num_train_epochs": 1, "save_strategy": "no", **options},
    )  # fmt: skip
    collator = collator_for(loaded, "shared_prefix", **of_collator)
    return PreferenceTrainer(
        loaded.model, args, objective=loss, train_pairs=rows, eval_pairs=eval_rows,
        options=TrainerOptions(collator=collator, reference=reference, **of_trainer),
    )  # fmt: skip


def weights(trainer: PreferenceTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def logged(trainer: PreferenceTrainer, name: str) -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


def estimate(trainer: PreferenceTrainer, rows: list[PreferencePair], *, per_token: bool = False) -> float:
    """z by one forward for each mismatched answer."""
    assert trainer.reference is not None
    collate = trainer.collator.of_chosen()
    found = []
    with torch.no_grad(), eval_mode(trainer.model):
        for row in rows:
            batch = collate([dataclasses.replace(row, chosen=row.mismatched or "", mismatched=None)])
            ratio = float(answer_sums(trainer.model, batch)) - float(trainer.reference.logps(batch).chosen)
            found.append(ratio / int(batch.answer_lens) if per_token else ratio)
    return max(0.0, sum(found) / len(found))


@pytest.mark.parametrize("per_token", [False, True])
def test_the_estimate_is_the_mean_of_all_mismatched_answers(tmp_path: Path, per_token: bool) -> None:
    trainer = trainer_for(tmp_path, {**KTO, "length_normalize": per_token}, size=3, steps=3)
    want = estimate(trainer, single_answers(ROWS, seed=3), per_token=per_token)
    assert want > 0.01
    trainer.train()
    assert trainer.state.global_step == 1
    assert logged(trainer, "kto/kl") == [pytest.approx(want, rel=1e-4)]
    assert logged(trainer, "kto/share_desirable") == [0.5]


@pytest.mark.parametrize("loss", [KTO, SHIFT], ids=["kto", "shift"])
def test_every_way_to_run_an_update_is_the_same(tmp_path: Path, loss: Any) -> None:
    size = 8 if loss is KTO else 4
    one = trainer_for(tmp_path / "1", loss, size=size, steps=1, learning_rate=0.1)
    before = weights(one)
    one.train()
    want = weights(one) - before
    ways: dict[str, dict[str, Any]] = {
        "one by one": {"size": 1, "steps": size},
        "in parts": {"size": size, "steps": 1, "row_tokens": 90},
    }
    for way, options in ways.items():
        trainer = trainer_for(tmp_path / way, loss, learning_rate=0.1, **options)
        trainer.train()
        assert trainer.state.global_step == 1, way
        assert relative(weights(trainer) - before, want) < 1e-5, way
        name = "kto/kl" if loss is KTO else "anchor/shift"
        assert logged(trainer, name) == pytest.approx(logged(one, name), rel=1e-5), way
        assert abs(logged(one, name)[0]) > 0.01


@pytest.mark.parametrize(
    "way",
    [{"size": 2, "steps": 1}, {"size": 1, "steps": 2}, {"size": 2, "steps": 1, "row_tokens": 60}],
    ids=["one batch", "accumulated", "in parts"],
)
def test_the_shift_is_the_mean_over_the_updates_so_far(tmp_path: Path, way: dict[str, Any]) -> None:
    trainer = trainer_for(tmp_path, SHIFT, rows=SIX, **way)
    trainer.train()
    assert trainer.state.global_step == 3
    trainer.pair_log.flush()
    trainer.pair_log.write(tmp_path / "pairs.parquet")
    means = []
    for step in (1, 2, 3):
        rows = [row for row in rows_of(tmp_path / "pairs.parquet") if row["step"] == step]
        assert len(rows) == 2
        ratios = [row[f"rewards/{side}"] for row in rows for side in ("chosen", "rejected")]
        means.append(sum(ratios) / 4)
    want = [sum(means[:count]) / count for count in (1, 2, 3)]
    assert logged(trainer, "anchor/shift") == pytest.approx(want, rel=1e-4)
    assert len({round(value, 3) for value in want}) == 3


def rows_of(file: Path) -> list[dict[str, Any]]:
    columns = read_pair_log(file)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreferenceTrainer, Path]:
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_for(folder, SHIFT, rows=SIX, size=1, steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    return trainer, folder


def test_a_resumed_run_goes_on_with_the_shift(whole: tuple[PreferenceTrainer, Path], tmp_path: Path) -> None:
    trainer, folder = whole
    assert json.loads((folder / "step-2" / FILE).read_text())["updates"] == 2
    again = trainer_for(tmp_path, SHIFT, rows=SIX, size=1, steps=2)
    again.train(resume_from_checkpoint=str(folder / "step-1"))
    assert torch.equal(weights(again), weights(trainer))
    assert logged(again, "anchor/shift")[-2:] == logged(trainer, "anchor/shift")[-2:]


def test_an_evaluation_takes_the_shift_as_it_is(whole: tuple[PreferenceTrainer, Path], tmp_path: Path) -> None:
    trainer, folder = whole
    stored = json.loads((folder / "step-3" / FILE).read_text())
    want = stored["sum"] / 3
    for _ in range(2):
        assert trainer.evaluate(ROWS)["eval_anchor/shift"] == pytest.approx(want, rel=1e-6)
    fresh = trainer_for(tmp_path, SHIFT, size=1, steps=2)
    assert fresh.evaluate(ROWS)["eval_anchor/shift"] == 0


def test_a_checkpoint_without_a_shift_is_refused(whole: tuple[PreferenceTrainer, Path], tmp_path: Path) -> None:
    trainer, _ = whole
    (tmp_path / "step-1").mkdir()
    with pytest.raises(CheckpointError, match=f"has no {FILE}: it was trained without a running shift"):
        trainer.constants.restore(tmp_path / "step-1")
    (tmp_path / "step-1" / FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer.constants.restore(tmp_path / "step-1")


def test_an_update_that_is_left_out_does_not_count(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, SHIFT, rows=SIX, size=1, steps=2, skip_nonfinite_steps=1)
    clip = trainer.nonfinite.clip

    def spoilt(model: torch.nn.Module, max_norm: float = float("inf")) -> torch.Tensor:
        if trainer.state.global_step == 1:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(float("nan"))  # type: ignore[union-attr]
        return clip(model, max_norm)

    trainer.nonfinite.clip = spoilt  # type: ignore[method-assign]
    trainer.train()
    assert trainer.skipped_steps == [2]
    shifts = logged(trainer, "anchor/shift")
    trainer.pair_log.flush()
    trainer.pair_log.write(tmp_path / "pairs.parquet")
    rewards = {
        step: [
            row[f"rewards/{side}"]
            for row in rows_of(tmp_path / "pairs.parquet")
            for side in ("chosen", "rejected")
            if row["step"] == step
        ]
        for step in (1, 2, 3)
    }
    first, second, third = (sum(found) / 4 for found in rewards.values())
    assert shifts == pytest.approx([first, (first + second) / 2, (first + third) / 2], rel=1e-4)


def test_an_evaluation_by_kto_takes_all_its_answers_together(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, KTO, size=2, steps=1, eval_rows=ROWS, per_device_eval_batch_size=1)
    found = trainer.evaluate()
    want = estimate(trainer, single_answers(ROWS, seed=3))
    assert found["eval_kto/kl"] == pytest.approx(want, rel=1e-4)
    again = trainer_for(tmp_path / "2", KTO, size=2, steps=1, per_device_eval_batch_size=8).evaluate(ROWS)
    assert again["eval_loss"] == pytest.approx(found["eval_loss"], rel=1e-5)
    assert again["eval_kto/kl"] == pytest.approx(found["eval_kto/kl"], rel=1e-5)
