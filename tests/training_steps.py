"""Three updates of a real ``PreferenceTrainer``, and a look at the middle one: on a GPU and on the pretend device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from mmpref.losses import build_objective
from mmpref.models import AdapterSettings, LoadedModel, LoadSettings, Tuning, choose_reference, load, prepare
from mmpref.models.logps.reference import Reference
from mmpref.processing import PairCollator, PairEncoder
from mmpref.records import PreferencePair
from mmpref.training import PreferenceTrainer, TrainerOptions
from mmpref.training.run.reference_cache import ReferenceCache
from tests.tiny_vlms import build, draw, pair

LORA = Tuning(language="lora")
FULL = Tuning(projector="full", language="full")
UPDATES, MICRO = 3, 2


def rows_for(name: str, count: int) -> list[PreferencePair]:
    """Pairs with one image, with two of different sizes and with none; a text model gets none."""
    looks: list[tuple[str, ...]] = [("28x28-1",), ("60x60-2", "28x56-3"), ()]
    rows = []
    for number in range(count):
        images = () if name == "text" else looks[number % 3]
        answers = {"chosen": "a red square ." + " yes" * number, "rejected": "a red dog . there is no cat ."}
        rows.append(pair(str(number), images=images, **answers, score_chosen=4.0, score_rejected=1.0 + number % 2))
    return rows


def tiny(name: str, tuning: Tuning, dtype: str = "float32") -> LoadedModel:
    """A small model of a family as it is loaded from its folder, prepared for training."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(build(name, Path(folder)), LoadSettings(dtype=dtype))
    return prepare(loaded, tuning, AdapterSettings(rank=4) if "lora" in (tuning.language, tuning.vision) else None)


def objective(name: str) -> Any:
    return build_objective({"name": name, "uni": {"tau_good": 2.5}} if "uni" in name else {"name": name})


class Between(TrainerCallback):
    """Calls ``begin`` when the first update ends and ``end`` when the second does, of three."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.begin, self.end = begin, end

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.begin()
        elif state.global_step == 2:
            self.end()


def three_updates(
    name: str, folder: Path, args: TrainingArguments, *, begin: Callable[[], None], end: Callable[[], None],
    tuning: Tuning = LORA, is_cached: bool = False, layout: Any = "shared_prefix", loss: str = "uni_adadpo",
    dtype: str = "float32", trainer_class: type[PreferenceTrainer] = PreferenceTrainer,
) -> PreferenceTrainer:  # fmt: skip
    """Train, with ``begin`` and ``end`` around the second update and all that lies between it and the first."""
    torch.manual_seed(0)
    loaded, pairs = tiny(name, tuning, dtype), rows_for(name, UPDATES * MICRO * 2)
    collator = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, layout=layout, keyed=is_cached)
    reference: Reference | None = None
    if is_cached:
        cache = ReferenceCache.open(folder / "cache", {"model": name})
        cache.fill(loaded.model, collator, pairs, device=args.device, say=lambda _: None)
        reference = cache
    else:
        reference = choose_reference(loaded.model)
    trainer = trainer_class(
        loaded.model, args, objective=objective(loss), train_pairs=pairs,
        options=TrainerOptions(collator=collator, reference=reference, callbacks=[Between(begin, end)]),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == UPDATES
    return trainer


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Two pairs in each of two micro-batches, three updates, and no log line before the end."""
    return TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=MICRO, max_steps=UPDATES,
        learning_rate=1e-3, lr_scheduler_type="constant", optim="adamw_torch_fused", logging_steps=1000,
        logging_first_step=False, report_to=[], save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
