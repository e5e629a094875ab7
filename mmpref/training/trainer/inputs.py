"""From what a script has at hand (a path, a file of pairs) to what the trainer needs; recipes go through ``run``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpref.data.accepted import accepted_for
from mmpref.data.image_check import ImageCheck
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import load_each
from mmpref.data.opening import open_pairs
from mmpref.data.pair_source import all_files
from mmpref.data.quarantine import Quarantine
from mmpref.data.random_images import with_random_images
from mmpref.data.single_answers import single_answers
from mmpref.data.videos.loader import VideoLoader
from mmpref.errors import ConfigError
from mmpref.losses.objective import Objective
from mmpref.losses.settings import SuspiciousLossWarning
from mmpref.models.adapters.lora import prepare
from mmpref.models.adapters.saved import read_adapter
from mmpref.models.load import load
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.layout_choice import choose_layout
from mmpref.models.logps.reference import Reference, choose_reference
from mmpref.models.tuning import PARTS, AdapterSettings, Tuning
from mmpref.processing.collate import PairCollator
from mmpref.processing.encode import PairEncoder
from mmpref.processing.other_images import OtherImageSettings
from mmpref.processing.token_weights import TokenWeightSettings, describe_weights
from mmpref.records import PreferencePair
from mmpref.rundir.folder import model_of
from mmpref.training.loss_settings import objective_for, objective_from
from mmpref.training.trainer.options import TrainerOptions

Model = nn.Module | LoadedModel | str | Path
PairsOrFile = Sequence[PreferencePair] | str | Path
AdapterOrFolder = AdapterSettings | str | Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What :class:`PreferenceTrainer` was given to train, and on what; its docstring says which forms are taken."""

    model: Model
    objective: Objective | Mapping[str, Any]
    train_pairs: PairsOrFile
    eval_pairs: PairsOrFile = ()
    adapter: AdapterOrFolder | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerInputs:
    """What is trained and on what, ready to use.

    Attributes:
        reference: None where the objective reads none.
        source: where the model was loaded from, with its processor files; None where that is not known.
    """

    model: nn.Module
    objective: Objective
    train_pairs: Sequence[PreferencePair]
    eval_pairs: Sequence[PreferencePair]
    collator: PairCollator
    reference: Reference | None
    source: str | Path | None

    @classmethod
    def of(cls, given: Given, options: TrainerOptions, *, autocast: torch.dtype | None, seed: int = 0) -> TrainerInputs:
        """Load what was given by its path, and make what was not given.

        Args:
            autocast: the half precision that training computes in; None for float32.
            seed: of what a loss of single answers draws (:func:`as_rows_of`).

        Raises:
            ConfigError: something is missing, not there, or does not fit the model; held-out images below another
                folder than those that train.
            DataError: a file of pairs cannot be used; too many bad rows in it.
        """
        objective = objective_from(given.objective) if isinstance(given.objective, Mapping) else given.objective
        model, loaded = as_model(given.model, options.tuning, given.adapter, autocast=autocast)
        pairs, root = as_pairs(given.train_pairs, objective, options.image_root)
        if isinstance(given.objective, Mapping):  # a quantile of scores is known by the pairs
            objective = objective_for(given.objective, pairs)
        held_out, root_of_held_out = as_pairs(given.eval_pairs, objective, options.image_root)
        if not pairs:
            raise ConfigError("there are no pairs to train on")
        _refuse_other_image(objective, options)
        pairs, held_out = (as_rows_of(objective, found, seed=seed) for found in (pairs, held_out))
        collator = options.collator
        if collator is None:
            _refuse_another_root(held_out, root_of_held_out, options.image_root or root)
            collator = as_collator(loaded, objective, options.image_root or root, options.other_image)
            if options.other_image is not None and options.other_image.source == "random_row":
                images = ImageLoader(options.image_root or root)
                pairs, held_out = _from_other_rows(pairs, held_out, images, options.other_image.seed)
            if note := describe_weights(collator.encoder.token_weights, [*pairs, *held_out]):
                warnings.warn(f"token weights: {note}", SuspiciousLossWarning, stacklevel=2)
        else:
            _refuse_other_weights(objective, collator)
        if objective.needs_labels:
            collator = collator.changed(need_rejected=False, need_mismatched=objective.needs_kl)
        reference = options.reference
        if objective.needs_reference and reference is None:
            if loaded is None:
                raise ConfigError(
                    "the loss needs reference log-probs; pass "
                    "options=TrainerOptions(reference=choose_reference(model, ...))"
                )
            reference = choose_reference(model)
        return cls(
            model=model,
            objective=objective,
            train_pairs=pairs,
            eval_pairs=held_out,
            collator=collator,
            reference=reference,
            source=None if loaded is None else loaded.path,
        )


def as_model(
    model: Model,
    tuning: Tuning | None,
    adapter: AdapterOrFolder | None,
    *,
    autocast: torch.dtype | None = None,
) -> tuple[nn.Module, LoadedModel | None]:
    """A model ready to train, and what was loaded with it.

    A path is loaded and prepared; without a tuning that trains the language model itself, or LoRA on it where there are
    adapter settings, or what a saved adapter has. Training computes in ``autocast`` where it is given.

    Raises:
        ConfigError: tuning or adapter for a model that was prepared elsewhere; an adapter that does not fit.
    """
    if isinstance(model, str | Path):
        loaded = load(model, trainable=True)
        if isinstance(adapter, str | Path):
            found = read_adapter(Path(model_of(adapter)), loaded.family)
            tuning = tuning or Tuning(**{part: found.on(part) for part in PARTS})
            loaded = prepare(
                loaded, tuning, AdapterSettings(dropout=found.dropout), start=found.path, autocast=autocast
            )
        else:
            tuning = tuning or Tuning(language="full" if adapter is None else "lora")
            loaded = prepare(loaded, tuning, adapter, autocast=autocast)
        return loaded.model, loaded
    if tuning is not None or adapter is not None:
        raise ConfigError("tuning and adapter are for a model given by its path; prepare a loaded model with prepare()")
    return (model.model, model) if isinstance(model, LoadedModel) else (model, None)


def as_pairs(
    pairs: PairsOrFile, objective: Objective, root: Path | None = None
) -> tuple[list[PreferencePair], Path | None]:
    """Pairs, and the folder that their image paths start in where it is known.

    Args:
        pairs: they themselves, or a file of them.
        objective: says whether an answer alone is a row.
        root: image paths start here; default: the file's own folder.

    Raises:
        ConfigError: a file that is not there.
        DataError: a file that cannot be used; too many bad rows in it.
    """
    if not isinstance(pairs, str | Path):
        return list(pairs), None
    if not Path(pairs).exists():
        raise ConfigError(f"there is no file of pairs {pairs}")
    source = open_pairs(pairs, root=root)
    (found,) = load_each(
        [source],
        allow_demonstrations=accepted_for(needs_rejected=objective.needs_rejected, needs_labels=objective.needs_labels),
        quarantine=Quarantine(),
        find_broken=ImageCheck(),
    )
    return found, None if source.images is None else source.images.root


def as_rows_of(objective: Objective, pairs: Sequence[PreferencePair], *, seed: int) -> list[PreferencePair]:
    """The pairs as the objective compares them: for a loss of single answers each answer by itself, with its label and
    a mismatched answer, which is drawn where not every row has one; else as they are.

    Raises:
        DataError: rows that no single answers can be made of.
    """
    if not objective.needs_labels or all(pair.mismatched is not None for pair in pairs):
        return list(pairs)
    return single_answers(pairs, seed=seed)


def _refuse_another_root(held_out: Sequence[PreferencePair], root: Path | None, opened: Path | None) -> None:
    """Refuse held-out pairs of a file whose images lie below another folder than the one that all are opened from.

    Args:
        held_out: their relative paths start in ``root``; None where they were given as pairs.
        opened: the folder that images are opened from; None is the working directory.
    """
    if root is None or root.resolve() == (opened or Path()).resolve():
        return
    names = (file.path for pair in held_out for file in all_files(pair) if file.path is not None)
    if (name := next((name for name in names if not Path(name).is_absolute()), None)) is not None:
        raise ConfigError(
            f"eval_pairs have {name!r} below {root}, and all images are opened from {opened or Path.cwd()}: say where "
            "both lie with options=TrainerOptions(image_root=...), and write their paths from there"
        )


def _from_other_rows(
    pairs: list[PreferencePair], held_out: list[PreferencePair], images: ImageLoader, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Training and held-out pairs, each with images of other rows."""
    [trained] = with_random_images([pairs], seed=seed, images=images, names=["train_pairs"])
    [evaluated] = with_random_images([held_out], seed=seed, images=images, names=["eval_pairs"], more=[pairs])
    return trained, evaluated


def _refuse_other_image(objective: Objective, options: TrainerOptions) -> None:
    """Refuse an objective without the other image that it looks at, and the other way round."""
    collator = options.collator
    if collator is not None and options.other_image is not None:
        raise ConfigError("options have collator and other_image: give the collator's encoder its other_image")
    has_other = options.other_image is not None if collator is None else collator.need_other
    if has_other == objective.needs_other:
        return
    if has_other:
        raise ConfigError("other_image does nothing: this loss looks at one image only; leave it out")
    give = "options=TrainerOptions(other_image=OtherImageSettings(source='made', kind='crop'))"
    if collator is not None:
        give = "PairCollator(PairEncoder(..., other_image=OtherImageSettings(...)), ..., need_other=True)"
    raise ConfigError(f"the loss looks at the chosen answer under another image, and there is none: give {give}")


def _refuse_other_weights(objective: Objective, collator: PairCollator) -> None:
    """Refuse a collator that weighs tokens in another way than the objective says."""
    want, found = TokenWeightSettings.of(objective.token_weights), collator.encoder.token_weights
    if want == found:
        return
    if want is None:
        raise ConfigError("the collator's encoder has token_weights, and the loss has none: make it without them")
    raise ConfigError(
        "the loss weighs tokens in another way than the collator's encoder: make it with "
        "PairEncoder(..., token_weights=TokenWeightSettings.of(objective.token_weights))"
    )


def as_collator(
    loaded: LoadedModel | None, objective: Objective, root: Path | None, other_image: OtherImageSettings | None = None
) -> PairCollator:
    """The usual collator for a loaded model.

    Args:
        loaded: brings the processor.
        objective: says whether rejected answers are run.
        root: paths of images and videos start here.
        other_image: the other images, for objectives that look at them.

    Raises:
        ConfigError: a bare model, whose processor is not known.
    """
    if loaded is None:
        raise ConfigError(
            "a bare model comes without its processor: pass options=TrainerOptions(collator=...), or give the "
            "model's path"
        )
    images: Any = ImageLoader(root)
    videos = VideoLoader(root, images=images)
    return PairCollator(
        PairEncoder(
            loaded.processor,
            loaded.family,
            other_image=other_image,
            token_weights=TokenWeightSettings.of(objective.token_weights),
        ),
        images.open,
        videos,
        layout=choose_layout(loaded.model, loaded.family).name,
        need_rejected=objective.needs_rejected,
        need_other=objective.needs_other,
    )
