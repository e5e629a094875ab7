"""Which keys of a recipe belong to which kind, and which contradict each other: two tables of rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PARTS = ("vision", "projector", "language")
_NO_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
_NO_SCHEDULE_KEYS = ("constant", "constant_with_warmup")
_NO_BETAS = ("sgd", "adagrad", "rmsprop", "adafactor")


@dataclass(frozen=True, slots=True)
class Cure:
    """Overrides to add, and keys to leave out of what was given last."""

    add: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    @property
    def written(self) -> set[str]:
        """The keys that it writes."""
        return {text.partition("=")[0] for text in self.add}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be as the recipe says it, in a clause, and what puts it right: each by itself."""

    says: str
    cures: Sequence[Cure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Belongs:
    """Keys that do something only under a condition.

    Attributes:
        keys: dotted.
        to: the condition in words: "they belong to ...".
        holds: whether a recipe fulfils it.
        so: overrides that make a recipe fulfil it.
        off: overrides that take the keys back; without them each goes back to its default.
        only_later: what the recipe file says of the keys does not matter; only a change that does nothing does.
    """

    keys: tuple[str, ...]
    to: str
    holds: Callable[[Any], bool]
    so: Callable[[Any], tuple[str, ...]] = lambda recipe: ()
    off: tuple[str, ...] = ()
    only_later: bool = False


def _adapter_keys(*names: str) -> tuple[str, ...]:
    return tuple(f"adapter.{name}" for name in names)


def _lora(recipe: Any) -> tuple[str, ...]:
    return ("adapter.kind=lora", *(("tune.language=lora",) if recipe.tune.language == "full" else ()))


def _trained(recipe: Any) -> list[str]:
    return [part for part in _PARTS if getattr(recipe.tune, part) != "freeze"]


def _at_common_rate(recipe: Any) -> list[str]:
    return [part for part in _trained(recipe) if getattr(recipe.train.learning_rates, part) is None]


def _own_rate(part: str) -> Belongs:
    def trains(recipe: Any) -> bool:
        unknown = recipe.adapter.path is not None and part not in recipe.tune.model_fields_set
        return unknown or getattr(recipe.tune, part) != "freeze"  # a start adapter says which parts it is on

    return Belongs(
        keys=(f"train.learning_rates.{part}",),
        to=f"a part that trains, and nothing in {part} trains (tune.{part} is freeze)",
        holds=trains,
        so=lambda recipe: (f"tune.{part}={'full' if recipe.adapter.kind == 'none' else 'lora'}",),
    )


_DRAWN_KINDS = ("crop", "noise", "mask")


def _is_made(recipe: Any) -> bool:
    return bool(recipe.data.other_image == "made")


def _draws(recipe: Any) -> bool:
    return _is_made(recipe) and recipe.processing.other_image.kind in _DRAWN_KINDS


def _of_kinds(keys: Sequence[str], kinds: Sequence[str]) -> Belongs:
    """Keys of ``processing.other_image`` that only some kinds of made images read."""
    return Belongs(
        keys=tuple(f"processing.other_image.{key}" for key in keys),
        to=f"processing.other_image.kind {' or '.join(kinds)}",
        # where none is made, the rule of all these keys speaks
        holds=lambda recipe: not _is_made(recipe) or recipe.processing.other_image.kind in kinds,
        so=lambda recipe: (f"processing.other_image.kind={kinds[0]}",),
    )


_OTHER_IMAGE = (
    Belongs(
        keys=tuple(
            f"processing.other_image.{key}"
            for key in ("kind", "scale", "ratio", "step", "share", "block", "sigma", "fill", "per")
        ),
        to="data.other_image made",
        holds=_is_made,
        so=lambda recipe: ("data.other_image=made",),
    ),
    _of_kinds(["scale", "ratio"], ["crop"]),
    _of_kinds(["step"], ["noise"]),
    _of_kinds(["share", "block"], ["mask"]),
    _of_kinds(["sigma"], ["blur"]),
    _of_kinds(["fill"], ["mask", "blank"]),
    _of_kinds(["per"], _DRAWN_KINDS),
    Belongs(
        keys=("processing.other_image.seed",),
        to=f"images that are drawn: data.other_image random_row, or made of kind {' or '.join(_DRAWN_KINDS)}",
        holds=lambda recipe: _draws(recipe) or recipe.data.other_image == "random_row",
        so=lambda recipe: ("processing.other_image.kind=crop",) if _is_made(recipe) else ("data.other_image=made",),
    ),
    Belongs(
        keys=("processing.other_image.resize",),
        to="data.other_image column",
        holds=lambda recipe: recipe.data.other_image == "column",
        so=lambda recipe: ("data.other_image=column",),
    ),
)

BELONGS: tuple[Belongs, ...] = (
    *_OTHER_IMAGE,
    Belongs(
        keys=_adapter_keys("double_quant", "compute_dtype"),
        to="weights in 4 bits",
        holds=lambda recipe: recipe.adapter.stored_as in ("nf4", "fp4"),
        so=lambda recipe: ("adapter.kind=qlora", "adapter.quantization=nf4", *_lora(recipe)[1:]),
    ),
    Belongs(
        keys=_adapter_keys(
            *("path", "rank", "alpha", "dropout", "use_rslora", "use_dora", "init", "experts", "quantization")
        ),
        to="LoRA, and adapter.kind is none (for LoRA set kind: lora or qlora)",
        holds=lambda recipe: recipe.adapter.kind != "none",
        so=_lora,
        off=("adapter={kind: none}",),
    ),
    Belongs(
        keys=("reference.cache",),
        to="reference.kind cache",
        holds=lambda recipe: recipe.reference.kind == "cache",
        so=lambda recipe: ("reference.kind=cache",),
    ),
    Belongs(
        keys=("model.save_dtype",),
        to="a run that writes a whole model, and with an adapter only the adapter is written",
        holds=lambda recipe: recipe.adapter.kind == "none",
    ),
    Belongs(keys=("data.verify",), to="data.manifest", holds=lambda recipe: recipe.data.manifest is not None),
    Belongs(
        keys=("data.check_images",),
        to="runs without data.manifest, whose check decoded every image",
        holds=lambda recipe: recipe.data.manifest is None,
        so=lambda recipe: ("data.manifest=null",),
    ),
    Belongs(
        keys=("processing.shrink_images",),
        to="processing.max_length",
        holds=lambda recipe: recipe.processing.max_length is not None,
        so=lambda recipe: ("processing.max_length=4096",),
    ),
    Belongs(
        keys=("processing.feature_cache",),
        to="a vision tower that stays as it is, and here it trains",
        holds=lambda recipe: recipe.adapter.path is not None or recipe.tune.vision == "freeze",
        so=lambda recipe: ("tune.vision=freeze",),
    ),
    Belongs(
        keys=("train.warmup_steps",),
        to="a schedule that begins with a warm-up",
        holds=lambda recipe: recipe.train.lr_scheduler_type not in _NO_WARMUP,
        so=lambda recipe: ("train.lr_scheduler_type=constant_with_warmup",),
    ),
    Belongs(
        keys=("train.lr_scheduler_kwargs",),
        to="a schedule that has settings of its own",
        holds=lambda recipe: recipe.train.lr_scheduler_type not in _NO_SCHEDULE_KEYS,
    ),
    Belongs(
        keys=("train.adam_beta1", "train.adam_beta2"),
        to="an optimizer of Adam's kind",
        holds=lambda recipe: not recipe.train.optim.startswith(_NO_BETAS),
        so=lambda recipe: ("train.optim=adamw_torch",),
    ),
    Belongs(
        keys=("train.save_total_limit",),
        to="checkpoints (train.save_steps)",
        holds=lambda recipe: recipe.train.save_steps is not None,
        so=lambda recipe: ("train.save_steps=50",),
    ),
    Belongs(
        keys=("train.eval_steps", "train.eval_image_lift"),
        to="held-out pairs (data.eval or data.held_out)",
        holds=lambda recipe: bool(recipe.data.eval or recipe.data.held_out),
        so=lambda recipe: ("data.held_out=0.05",),
    ),
    Belongs(
        keys=("train.num_train_epochs",),
        to="runs without train.max_steps",
        holds=lambda recipe: recipe.train.max_steps == -1,
        so=lambda recipe: ("train.max_steps=-1",),
        only_later=True,
    ),
    *map(_own_rate, _PARTS),
    Belongs(
        keys=("train.learning_rate",),
        to="parts without a rate of their own, and all that train have one in train.learning_rates",
        holds=lambda recipe: recipe.adapter.path is not None or bool(_at_common_rate(recipe)) or not _trained(recipe),
        so=lambda recipe: tuple(f"train.learning_rates.{part}=null" for part in _trained(recipe)),
        only_later=True,
    ),
)


def contradictions(recipe: Any, later: Mapping[str, bool]) -> Iterator[Problem]:
    """Keys that exclude each other; ``later`` are those that were changed last."""
    adapter, data, train = recipe.adapter, recipe.data, recipe.train
    if train.bf16 and train.fp16:
        yield _clash("train.bf16 and train.fp16 exclude each other", ["train.fp16=false"], ["train.bf16=false"])
    if data.eval and data.held_out:
        yield _clash("data.eval and data.held_out are both given", ["data.held_out=0"], ["data.eval=[]"])
    if weighted := [entry.path for entry in data.eval if getattr(entry, "weight", 1) != 1]:
        yield _clash(
            f"data.eval gives a weight to {', '.join(weighted)}, and an evaluation takes every held-out pair once",
            [f"data.eval={json.dumps([_without_weight(entry) for entry in data.eval])}"],
        )
    if adapter.kind == "qlora" and adapter.quantization == "int8":
        yield _clash(
            "adapter.kind qlora is 4 bits; for 8 bits write kind: lora with quantization: int8",
            ["adapter.kind=lora"],
            ["adapter.quantization=nf4"],
        )
    if adapter.kind == "qlora" and adapter.quantization is None and "adapter.quantization" in later:
        yield Problem(
            "adapter.quantization is null, and adapter.kind qlora is 4 bits all the same",
            [
                Cure(("adapter.kind=lora",)),
                Cure(leave_out=("adapter.quantization",)),
                Cure(("adapter.quantization=nf4",)),
            ],
        )
    is_new = "adapter.kind" in later and "adapter.quantization" not in later
    if adapter.kind == "lora" and adapter.quantization in ("nf4", "fp4") and is_new:
        yield _clash(
            f"adapter.kind=lora leaves the weights in 4 bits (adapter.quantization is {adapter.quantization})",
            ["adapter.quantization=null"],
        )
    if adapter.path is not None and adapter.init != "zero" and adapter.kind != "none":
        yield _clash(
            f"adapter.init: {adapter.init} is how a new adapter starts, and adapter.path gives one",
            ["adapter.init=zero"],
            ["adapter.path=null"],
        )
    if adapter.init != "zero" and adapter.kind != "none" and (adapter.use_dora or adapter.stored_as):
        whole = ["adapter.kind=lora", "adapter.quantization=null"] if adapter.stored_as else []
        yield _clash(
            f"adapter.init {adapter.init} splits the base's own weights, and needs them whole and without DoRA",
            ["adapter.init=zero"],
            [*whole, *(["adapter.use_dora=false"] if adapter.use_dora else [])],
        )
    yield from _of_new_images(recipe)
    yield from _of_parts(recipe)


def _of_new_images(recipe: Any) -> Iterator[Problem]:
    """What keeps something of an image, where every epoch has another one."""
    if not _draws(recipe) or recipe.processing.other_image.per != "epoch":
        return
    says = "processing.other_image.per is epoch, so that every epoch has other images, and"
    if recipe.reference.kind == "cache":
        kept = ["reference.cache=null"] if recipe.reference.cache is not None else []
        yield _clash(
            f"{says} reference.kind cache keeps log-probs of one for each pair",
            ["processing.other_image.per=pair"],
            ["reference.kind=auto", *kept],
        )
    if recipe.processing.feature_cache is not None:
        yield _clash(
            f"{says} processing.feature_cache would keep the features of each",
            ["processing.other_image.per=pair"],
            ["processing.feature_cache=null"],
        )


def _without_weight(entry: Any) -> Any:
    """One source of ``data.eval``, as the command line takes it."""
    if isinstance(entry, str):
        return entry
    kept = entry.model_dump(mode="json", exclude_defaults=True, exclude={"weight"})
    return kept if len(kept) > 1 else entry.path


def _of_parts(recipe: Any) -> Iterator[Problem]:
    """What ``tune`` and ``adapter`` say of the parts; an adapter that training starts from has parts of its own."""
    if recipe.adapter.path is not None and recipe.adapter.kind != "none":
        return
    tuned = {part: getattr(recipe.tune, part) for part in _PARTS}
    lora = [part for part, how in tuned.items() if how == "lora"]
    named = ", ".join(f"tune.{part}" for part in lora)
    if recipe.adapter.kind == "none":
        if lora:
            yield _clash(
                f"{named} {'are' if len(lora) > 1 else 'is'} lora, and adapter.kind is none",
                [f"tune.{part}=full" for part in lora],
                list(_lora(recipe)),
            )
        elif set(tuned.values()) == {"freeze"}:
            yield _clash("nothing would train: every part of tune is freeze", ["tune.language=full"])
    elif tuned["language"] == "full":
        beside = f" beside LoRA on {named}" if lora else ", and no part is tuned by it"
        yield _clash(
            f"adapter.kind is {recipe.adapter.kind}, and tune.language is full{beside}",
            ["tune.language=lora"],
            ["adapter={kind: none}", *(f"tune.{part}=full" for part in lora)],
        )
    elif not lora:
        yield _clash(
            f"adapter.kind is {recipe.adapter.kind}, and no part is tuned by it",
            ["tune.language=lora"],
            ["adapter={kind: none}", *([] if "full" in tuned.values() else ["tune.language=full"])],
        )


def _clash(says: str, *cures: Sequence[str]) -> Problem:
    return Problem(says, [Cure(tuple(cure)) for cure in cures])
