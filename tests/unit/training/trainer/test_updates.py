"""One update is one update, however its pairs are laid out: in parts, in micro-batches, packed, padded, by workers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, prepare
from mmpref.records import PreferencePair
from mmpref.training import PreferenceTrainer, TrainerOptions
from tests.plain_forward import all_rows, build_deep, collator_for, relative
from tests.recomputing import recomputing_arguments
from tests.tiny_vlms import pair

LORA = (Tuning(language="lora"), AdapterSettings(rank=4))
FULL = (Tuning(projector="full", language="full"), None)


def eight(name: str) -> list[PreferencePair]:
    """A row without images first, then rows with one and with two images of different sizes."""
    rows = all_rows(name)[:5]
    again = [
        dataclasses.replace(row, id=f"{row.id} again", chosen=row.rejected or "", rejected=row.chosen) for row in rows
    ]
    return [*rows, *again][:8]


def trained(
    name: str, folder: Path, *, size: int, steps: int, tuning: Any = LORA, layout: Any = "shared_prefix",
    rows: list[PreferencePair] | None = None, loss: Any = None, eval_rows: Any = (), **options: Any,
) -> tuple[torch.Tensor, PreferenceTrainer, LoadedModel]:  # fmt: skip
    """What trains after one epoch, less where it started."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loaded = prepare(build_deep(name), *tuning)
    start = torch.cat([p.detach().clone().flatten() for p in loaded.model.parameters() if p.requires_grad])
    of_collator = {key: options.pop(key) for key in ("row_tokens", "need_rejected") if key in options}
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=size, gradient_accumulation_steps=steps, num_train_epochs=1,
        learning_rate=1e-2, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, seed=3, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1, **options,
    )  # fmt: skip
    trainer = PreferenceTrainer(
        loaded.model, args,
        objective=loss or {"base": "dpo", "beta": 0.3},
        train_pairs=rows or eight(name), eval_pairs=eval_rows,
        options=TrainerOptions(
            collator=collator_for(loaded, layout, **of_collator), reference=choose_reference(loaded.model)
        ),
    )  # fmt: skip
    trainer.train()
    end = torch.cat([p.detach().flatten() for p in loaded.model.parameters() if p.requires_grad])
    return end - start, trainer, loaded


@pytest.mark.parametrize(
    ("name", "tuning"),
    [
        ("qwen2_5_vl", FULL),
        pytest.param("llava_next", LORA, marks=pytest.mark.slow),
        pytest.param("idefics3", LORA, marks=pytest.mark.slow),
    ],
)
def test_every_way_to_run_eight_pairs_is_the_same_update(name: str, tuning: Any, tmp_path: Path) -> None:
    want, one, _ = trained(name, tmp_path / "1", size=8, steps=1, tuning=tuning)
    assert float(want.norm()) > 0
    assert one.state.global_step == 1
    ways: dict[str, dict[str, Any]] = {
        "8 x 1": {"size": 1, "steps": 8},
        "in parts": {"size": 8, "steps": 1, "row_tokens": 120},
        "plain rows in parts": {"size": 4, "steps": 2, "row_tokens": 150, "layout": "plain"},
        "checkpointed": {
            "size": 8, "steps": 1, **recomputing_arguments(),
        },
    }  # fmt: skip
    for way, options in ways.items():
        got, trainer, _ = trained(name, tmp_path / way, tuning=tuning, **options)
        assert trainer.state.global_step == 1, way
        assert relative(got, want) < 1e-5, way
        losses = [t.state.log_history[0]["loss"] for t in (one, trainer)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5), way


def test_loader_workers_make_the_same_batches(tmp_path: Path) -> None:
    want, _, _ = trained("qwen3_vl", tmp_path / "0", size=3, steps=1)
    got, _, _ = trained(
        "qwen3_vl", tmp_path / "2", size=3, steps=1, dataloader_num_workers=2, dataloader_pin_memory=False
    )
    assert torch.equal(got, want)


def test_demonstrations_train_by_sft_and_are_evaluated_beside_pairs(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, rejected=None) for row in eight("llava")[:4]]
    held_out = [pair("a", images=("60x60-2",)), pair("b", images=())]
    moved, trainer, _ = trained(
        "llava", tmp_path, size=4, steps=1, rows=rows, loss={"base": "sft"}, need_rejected=False, eval_rows=held_out
    )
    assert float(moved.norm()) > 0
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    assert {"eval_logps/chosen", "eval_logps/rejected"} <= set(metrics)
    alone = trainer.evaluate([dataclasses.replace(row, rejected=None) for row in held_out])
    assert alone["eval_loss"] == pytest.approx(metrics["eval_loss"], abs=1e-5)
    assert "eval_logps/rejected" not in alone
