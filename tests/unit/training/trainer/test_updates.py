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
from mmpref.training.trainer.pair_log import read_pair_log
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
    group_pairs, start_from = options.pop("group_pairs", "off"), options.pop("start_from", None)
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        learning_rate=1e-2, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, seed=3, use_cpu=True,
        report_to=[], disable_tqdm=True, logging_steps=1, **{"num_train_epochs": 1, "save_strategy": "no", **options},
    )  # fmt: skip
    trainer = PreferenceTrainer(
        loaded.model, args,
        objective=loss or {"base": "dpo", "beta": 0.3},
        train_pairs=rows or eight(name), eval_pairs=eval_rows,
        options=TrainerOptions(
            collator=collator_for(loaded, layout, **of_collator), reference=choose_reference(loaded.model),
            group_pairs=group_pairs,
        ),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=start_from)
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


def of_three_prompts() -> list[PreferencePair]:
    """Six pairs of four answers, and two prompts with a pair each, not side by side."""
    answers = ["a red square .", "two yellow boxes .", "a dog .", "a red box and a dog ."]
    couples = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    six = [pair(f"{a} {b}", chosen=answers[a], rejected=answers[b]) for a, b in couples]
    others = [pair("other", images=("60x60-2",)), pair("no image", images=(), question="what is red ?")]
    return [six[0], others[0], *six[1:4], others[1], *six[4:]]


def test_pairs_of_one_prompt_are_one_update_too_whatever_the_batches(tmp_path: Path) -> None:
    rows = of_three_prompts()
    want, one, _ = trained("qwen2_5_vl", tmp_path / "1", size=8, steps=1, tuning=FULL, rows=rows)
    ways: dict[str, dict[str, Any]] = {
        "batches without a pair": {"size": 1, "steps": 8},
        "in parts": {"size": 4, "steps": 2, "row_tokens": 120},
        "plain rows, by workers": {
            "size": 2, "steps": 4, "layout": "plain", "dataloader_num_workers": 1, "dataloader_pin_memory": False,
        },
    }  # fmt: skip
    for way, options in ways.items():
        got, trainer, _ = trained("qwen2_5_vl", tmp_path / way, tuning=FULL, rows=rows, group_pairs="prompt", **options)
        assert trainer.state.global_step == 1, way
        assert relative(got, want) < 1e-5, way
        losses = [t.state.log_history[0]["loss"] for t in (one, trainer)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5), way
        trainer.pair_log.write(tmp_path / "pairs.parquet")
        assert sorted(read_pair_log(tmp_path / "pairs.parquet")["pair_id"]) == sorted(row.id for row in rows), way


def test_a_resumed_run_with_groups_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, id=f"{row.id} {n}") for n in range(2) for row in of_three_prompts()]
    options = {"rows": rows, "group_pairs": "prompt", "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    want, whole, _ = trained("llava", tmp_path / "1", size=1, steps=3, **options)
    assert whole.state.global_step == 12  # 16 pairs, three of them an update, twice
    middle = next(path for path in (tmp_path / "1").iterdir() if path.name.endswith("-8"))
    got, _, _ = trained("llava", tmp_path / "2", size=3, steps=1, start_from=str(middle), **options)
    assert relative(got, want) < 1e-6


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
