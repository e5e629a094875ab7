"""One training step of mmpref and one of TRL's DPOTrainer, over the same pairs.

Both run their real trainer: ``train()`` makes the first update, at a learning rate of 0, and so wraps the model,
switches gradient checkpointing on and builds the optimizer's state as a run does; afterwards ``training_step`` is
called on batches that lie on the device already. A step is what happens between such a batch and the gradients, with
each library's own bookkeeping of a step: TRL reads some ten metrics back from the device in every step, mmpref only
when it logs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers as tf
from bench_models import image
from torch import nn

from mmpref.models import AdapterSettings, LoadedModel, choose_reference, prepare
from mmpref.processing import PairCollator, PairEncoder, family_of
from mmpref.recipe.loading import build_recipe
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.training import PreferenceTrainer, TrainerOptions
from mmpref.training.precision import autocast_dtype, tuning_of
from mmpref.training.run.reference_cache import ReferenceCache
from mmpref.training.trainer.arguments import training_arguments

RANK, ALPHA, BETA = 16, 32, 0.1
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""What mmpref puts LoRA on in these models, for TRL."""


class Subject(Protocol):
    """A model with random weights: ``bench_models.Scaled`` or ``random_models.RandomModel``."""

    @property
    def family(self) -> str: ...
    @property
    def processor(self) -> Any: ...
    @property
    def image_markup(self) -> str: ...
    @property
    def image(self) -> tuple[int, int]: ...


def recipe_tree(
    path: str, output: Path, *, kind: str, bf16: bool, checkpointing: bool, batch: int = 1, optim: str = "adamw_torch",
    use_cpu: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The recipe of a step, as ``mmpref.recipe.loading.build_recipe`` takes it.

    Args:
        path: of the model, a hub id or a folder.
        kind: ``lora`` or ``qlora``, or ``none`` for a language model that trains itself.
    """
    lora = {"kind": kind, "rank": RANK, "alpha": ALPHA} if kind != "none" else {"kind": kind}
    return {
        "output": str(output),
        "seed": 0,
        "model": {"path": path, "dtype": "bfloat16" if bf16 else "float32"},
        "data": {"train": "pairs.jsonl"},
        "loss": {"name": "dpo", "beta": BETA},
        "adapter": lora,
        "tune": {"vision": "freeze", "projector": "freeze", "language": "full" if kind == "none" else "lora"},
        "train": {
            "learning_rate": 1e-5, "per_device_train_batch_size": batch, "bf16": bf16, "optim": optim,
            "gradient_checkpointing": checkpointing, "use_cpu": use_cpu,
        },
    }  # fmt: skip


class Ours:
    """mmpref's trainer. Steps read the reference live, or from a :class:`ReferenceCache` (:meth:`fill`).

    Args:
        subject: processor and images.
        model: its weights, on the device, quantised where the recipe says so.
        tree: from :func:`recipe_tree`.
        first: pairs of the first update, as many as a batch has.
    """

    def __init__(
        self, subject: Subject, model: tf.PreTrainedModel, tree: Mapping[str, Any], first: Sequence[PreferencePair]
    ) -> None:
        recipe = build_recipe(tree, where="pair step")
        family = family_of(subject.family, has_vision=True)
        loaded = LoadedModel(model=model, processor=subject.processor, family=family, path=recipe.model.path)
        lora = AdapterSettings(rank=RANK, alpha=ALPHA) if recipe.adapter.kind != "none" else None
        torch.manual_seed(recipe.seed)
        self.loaded = prepare(loaded, tuning_of(recipe), lora, autocast=autocast_dtype(recipe))
        self.recipe: Recipe = recipe
        self.model: Any = self.loaded.model
        self.live = choose_reference(self.model)
        self.cache: ReferenceCache | None = None
        encoder = PairEncoder(subject.processor, self.loaded.family)
        self.collator = PairCollator(encoder, partial(image, size=subject.image), keyed=True)
        arguments = training_arguments(recipe)
        arguments.learning_rate, arguments.max_steps = 0.0, 1
        _use_one_card(arguments)
        self.trainer = PreferenceTrainer(
            self.model, arguments, objective={"name": "dpo", "beta": BETA}, train_pairs=list(first),
            options=TrainerOptions(collator=self.collator, reference=self.live),
        )  # fmt: skip
        _first_update(self.trainer)
        self.trainer.recorder.meter.take()

    def fill(self, folder: Path, pairs: Sequence[PreferencePair]) -> None:
        """Compute the pairs' reference log-probs in the precision of training, as a run does before it starts."""
        if self.cache is None:
            self.cache = ReferenceCache.open(folder, {"weights": "random"})
        device, half = self.trainer.args.device, autocast_dtype(self.recipe)
        with torch.autocast(device.type, half) if half is not None else nullcontext():
            self.cache.fill(self.model, self.collator, pairs, device=device, say=lambda _: None)

    def batch(self, pairs: Sequence[PreferencePair]) -> Any:
        """Collated, and on the device."""
        return tuple(part.to(self.trainer.args.device) for part in self.collator.rows(pairs))

    def step(self, batch: Any, *, cached: bool = False) -> None:
        self.trainer.reference = self.cache if cached else self.live
        self.trainer.training_step(self.trainer.model_wrapped, batch)

    def logps(self) -> tuple[float, float]:
        """Log-probs of the chosen and rejected answers of the steps since the last call, their means over pairs."""
        found = self.trainer.recorder.meter.take()
        return found["logps/chosen"], found["logps/rejected"]


class Trl:
    """TRL's trainer, with its defaults: the reference is the model with its adapter off, and can be no cache, because
    TRL refuses to compute one for pairs with images.

    Args:
        subject: processor and images.
        model: its weights, on the device.
        folder: for what the trainer may write.
        first: pairs of the first update, as many as a batch has.
        tune: ``lora``, or ``full`` with a copy of the model as reference and a frozen tower.
    """

    def __init__(
        self, subject: Subject, model: tf.PreTrainedModel, folder: Path, first: Sequence[PreferencePair], *,
        tune: str = "lora", bf16: bool, checkpointing: bool, use_cpu: bool = False, optim: str = "adamw_torch",
    ) -> None:  # fmt: skip
        from datasets import Dataset, Features, List, Value
        from datasets import Image as ImageFeature
        from peft import LoraConfig
        from trl import DPOConfig, DPOTrainer

        if use_cpu:
            _score_answers_only_on_cpus()
        self.subject = subject
        reference = None
        if tune == "full":
            reference = copy.deepcopy(model).eval()
            inner: Any = model.model
            tower = inner.vision_tower if subject.family == "llava" else inner.visual
            tower.requires_grad_(False)
        text = Value("string")
        rows = Dataset.from_list(
            [self.row(pair) for pair in first],
            features=Features(images=List(ImageFeature()), prompt=text, chosen=text, rejected=text),
        )
        arguments = DPOConfig(
            output_dir=str(folder), per_device_train_batch_size=len(first), gradient_checkpointing=checkpointing,
            bf16=bf16, use_cpu=use_cpu, max_length=None, report_to=[], save_strategy="no", disable_tqdm=True,
            max_steps=1, learning_rate=0.0, beta=BETA, optim=optim,
        )  # fmt: skip
        _use_one_card(arguments)
        lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS) if tune == "lora" else None
        self.trainer: Any = DPOTrainer(
            model=model, ref_model=reference, args=arguments, train_dataset=rows, processing_class=subject.processor,
            peft_config=lora,
        )  # fmt: skip
        self.model: Any = self.trainer.model
        _first_update(self.trainer)

    def row(self, pair: PreferencePair) -> dict[str, Any]:
        eos = self.subject.processor.tokenizer.eos_token
        part: Any = pair.prompt[0]
        return {
            "images": [image(pair.images[0], self.subject.image)],
            "prompt": f"{self.subject.image_markup} {part.text}",
            "chosen": f" {pair.chosen} {eos}",
            "rejected": f" {pair.rejected} {eos}",
        }

    def batch(self, pairs: Sequence[PreferencePair]) -> Any:
        """Collated, and on the device."""
        collated = self.trainer.data_collator([self.row(pair) for pair in pairs])
        return {name: value.to(self.trainer.args.device) for name, value in collated.items()}

    def step(self, batch: Any) -> None:
        self.trainer.training_step(self.trainer.model_wrapped, dict(batch))

    def logps(self) -> tuple[float, float]:
        """Log-probs of the chosen and rejected answers of the last step, their means over pairs."""
        found = self.trainer._metrics["train"]
        return found["logps/chosen"][-1], found["logps/rejected"][-1]


def runners(ours: Ours, trl: Trl | None) -> dict[str, tuple[Any, Callable[[Any], None]]]:
    """Name -> (who makes the batch, the step). Without TRL only ours."""
    found: dict[str, tuple[Any, Callable[[Any], None]]] = {} if trl is None else {"trl": (trl, trl.step)}
    return {**found, "live": (ours, ours.step), "cached": (ours, partial(ours.step, cached=True))}


def same_adapters(first: nn.Module, second: nn.Module) -> None:
    """Give the second model's adapter the first one's weights.

    Raises:
        ValueError: they are not on the same layers.
    """
    ours, theirs = ({name: p for name, p in model.named_parameters() if ".lora_" in name} for model in (first, second))
    if {name: p.shape for name, p in ours.items()} != {name: p.shape for name, p in theirs.items()}:
        raise ValueError(f"adapters differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
    with torch.no_grad():
        for name, parameter in ours.items():
            theirs[name].copy_(parameter)


def nearest_to_mean(groups: Sequence[list[PreferencePair]]) -> list[PreferencePair]:
    """The batch whose answers together are nearest to the mean length: its work stands for that of them all."""
    lengths = [sum(len(f"{pair.chosen} {pair.rejected}".split()) for pair in group) for group in groups]
    mean = sum(lengths) / len(lengths)
    return min(zip(groups, lengths, strict=True), key=lambda one: abs(one[1] - mean))[0]


def language_model(model: Any) -> nn.Module:
    """The decoder of a model, inside its adapter."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found: nn.Module = base.model.language_model
    return found


def vision_tower(model: Any, family: str) -> nn.Module:
    """The vision tower; Qwen's holds its projector."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found: nn.Module = base.model.vision_tower if family == "llava" else base.model.visual
    return found


def _first_update(trainer: Any) -> None:
    """Let the trainer prepare itself and make one update at a learning rate of 0, and leave it as it is in training."""
    trainer.remove_callback(tf.trainer_callback.PrinterCallback)
    trainer.train()
    trainer.is_in_train = True
    trainer.model.zero_grad(set_to_none=True)


def _use_one_card(arguments: tf.TrainingArguments) -> None:
    """As the command lines of both do: where a process sees several cards, the Trainer would use them all."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def _score_answers_only_on_cpus() -> None:
    """Let TRL's head behave as on a GPU: elsewhere it runs over the prompt too, and its figures would flatter us."""
    import trl.trainer.utils as trl_utils

    trl_utils._use_triton = lambda device: True
