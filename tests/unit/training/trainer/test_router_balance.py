"""``model.router_aux_loss_coef``: one update however its pairs are laid out, logged, refused where it is nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, Tuning, choose_reference, load, prepare
from mmpref.processing import PairCollator, PairEncoder
from mmpref.training import PreferenceTrainer, TrainerOptions
from tests.model_types import qwen
from tests.plain_forward import relative
from tests.recomputing import recomputing_arguments
from tests.tiny_vlms import build, draw
from tests.training_steps import rows_for

COEF = 0.5  # large, so that it is seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = qwen.WRITERS["qwen3_vl_moe"](tmp_path_factory.mktemp("moe") / "model")
    return found


def trained(
    model: Path, out: Path, *, size: int, steps: int, coef: float = COEF, layout: Any = "shared_prefix",
    row_tokens: int | None = None, adapter: AdapterSettings | None = None, **options: Any,
) -> tuple[dict[str, torch.Tensor], PreferenceTrainer]:  # fmt: skip
    """By how much each weight moved in one epoch of eight pairs, which is one update."""
    torch.manual_seed(0)
    loaded = prepare(load(model, trainable=True), Tuning(language="lora" if adapter else "full"), adapter)
    start = {name: value.detach().clone() for name, value in loaded.model.named_parameters() if value.requires_grad}
    args = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=size, gradient_accumulation_steps=steps, num_train_epochs=1,
        learning_rate=1e-2, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, seed=3, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1, **options,
    )  # fmt: skip
    collator = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, layout=layout, row_tokens=row_tokens)
    trainer = PreferenceTrainer(
        loaded.model, args, objective={"base": "dpo", "beta": 0.3}, train_pairs=rows_for("qwen3_vl", 8),
        options=TrainerOptions(
            collator=collator, reference=choose_reference(loaded.model), router_aux_loss_coef=coef
        ),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 1
    weights = dict(loaded.model.named_parameters())
    return {name: weights[name].detach() - value for name, value in start.items()}, trainer


def flat(moved: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in moved.values()])


def test_every_way_to_run_eight_pairs_is_the_same_update(folder: Path, tmp_path: Path) -> None:
    moved, one = trained(folder, tmp_path / "1", size=8, steps=1)
    without, plain = trained(folder, tmp_path / "0", size=8, steps=1, coef=0.0)
    assert relative(flat(moved), flat(without)) > 1e-2
    routers = [name for name in moved if name.endswith("mlp.gate.weight")]
    assert routers
    assert all(relative(moved[name], without[name]) > 0.1 for name in routers)
    line, bare = one.state.log_history[0], plain.state.log_history[0]
    assert line["loss"] == pytest.approx(bare["loss"] + COEF * line["router/aux_loss"], abs=1e-4)
    assert "router/aux_loss" not in bare
    ways: dict[str, dict[str, Any]] = {
        "8 x 1": {"size": 1, "steps": 8},
        "in parts": {"size": 8, "steps": 1, "row_tokens": 120},
        "plain rows": {"size": 4, "steps": 2, "layout": "plain"},
        "checkpointed": {"size": 8, "steps": 1, **recomputing_arguments()},
    }
    for way, options in ways.items():
        got, trainer = trained(folder, tmp_path / way, **options)
        assert relative(flat(got), flat(moved)) < 1e-4, way
        for key in ("loss", "router/aux_loss"):
            assert trainer.state.log_history[0][key] == pytest.approx(line[key], abs=1e-4), way


def test_it_teaches_an_adapter_and_is_part_of_the_held_out_loss(folder: Path, tmp_path: Path) -> None:
    lora = AdapterSettings(rank=2, experts=True)
    moved, trainer = trained(folder, tmp_path / "1", size=4, steps=2, adapter=lora)
    without, _ = trained(folder, tmp_path / "0", size=4, steps=2, adapter=lora, coef=0.0)
    assert relative(flat(moved), flat(without)) > 1e-3
    metrics = trainer.evaluate(rows_for("qwen3_vl", 3))
    assert metrics["eval_router/aux_loss"] > 0.5


def test_a_model_without_experts_and_a_way_without_gradient_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a 'qwen3_vl' model has no routers"):
        trained(build("qwen3_vl", tmp_path / "dense"), tmp_path / "1", size=8, steps=1)
    reentrant = recomputing_arguments(use_reentrant=True)
    with pytest.raises(ConfigError, match="would teach nothing under reentrant checkpointing"):
        trained(folder, tmp_path / "2", size=8, steps=1, **reentrant)
    trained(folder, tmp_path / "3", size=8, steps=1, **recomputing_arguments(use_reentrant=False))
