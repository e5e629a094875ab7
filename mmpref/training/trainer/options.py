"""What a training may be given beyond a model, a loss and pairs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from transformers import TrainerCallback

from mmpref.errors import ConfigError
from mmpref.models.logps.reference import Reference
from mmpref.models.tuning import Tuning
from mmpref.processing.collate import PairCollator
from mmpref.processing.other_images import OtherImageSettings
from mmpref.training.parallel.groups import PairWork

GroupPairs: TypeAlias = Literal["off", "prompt"]


class FormerKeywordWarning(UserWarning):
    """An option was given to the trainer itself; that will stop working."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerOptions:
    """Options of :class:`PreferenceTrainer`; each has a default that suits most trainings.

    Attributes:
        tuning: what trains of a model given by its path; default: its language model, or LoRA on it where there are
            adapter settings, or what a saved adapter has.
        image_root: image paths start here; default: the folder of ``train_pairs``.
        collator: turns pairs into a ``PairBatch``; needed for a bare model, which comes without its processor.
        reference: where reference log-probs come from (``models.choose_reference``); needed for a bare model when the
            objective reads them.
        callbacks: of transformers, called in this order.
        learning_rates: of ``vision``, ``projector`` or ``language`` where they are not ``args.learning_rate``.
        skip_nonfinite_steps: so many updates with a loss or gradient that is not finite are left out; the next one
            stops the training, as the first does by default. Each writes a dump.
        fault_folder: where these dumps go; default: ``faults/`` in ``args.output_dir``.
        router_aux_loss_coef: weight of the load-balancing loss of a mixture-of-experts policy; 0 adds none.
        costs: the work that each training pair is, in any unit; several processes share it evenly. A ``PairWork`` says
            what of it pairs of one prompt have in common.
        group_pairs: ``prompt`` lets training pairs of the same images and prompt travel in the same update, where they
            are run together; ``off`` draws every pair by itself. An update has the same number of pairs in both.
        checkpoint_facts: stored in every checkpoint; whoever resumes compares them (``checkpoint.differences``).
        other_image: the other images that a loss with an image term looks at; where ``collator`` is given, its
            encoder says which.
        eval_other_image: the other images that both answers of held-out pairs are run under at every evaluation, for
            any loss (``lift/...``): made ones, the same in every epoch. None runs none.
        pair_log: the share of training pairs whose statistics are kept one by one, 0 to 1, chosen by their ids.
        run_folder: the run folder around ``args.output_dir``, which the caller has locked for this training. Default:
            there is none, and the trainer locks ``args.output_dir`` while it trains.

    Raises:
        ConfigError: ``group_pairs`` is neither of the two, ``pair_log`` no share, or ``eval_other_image`` of another
            kind.
    """

    tuning: Tuning | None = None
    image_root: Path | None = None
    collator: PairCollator | None = None
    reference: Reference | None = None
    callbacks: Sequence[TrainerCallback] = ()
    learning_rates: Mapping[str, float] | None = None
    skip_nonfinite_steps: int = 0
    router_aux_loss_coef: float = 0.0
    fault_folder: Path | None = None
    costs: Sequence[float | PairWork] | None = None
    group_pairs: GroupPairs = "off"
    checkpoint_facts: Mapping[str, Any] | None = None
    run_folder: Path | None = None
    other_image: OtherImageSettings | None = None
    eval_other_image: OtherImageSettings | None = None
    pair_log: float = 1.0

    def __post_init__(self) -> None:
        if self.group_pairs not in (known := get_args(GroupPairs)):
            raise ConfigError(f"group_pairs is {self.group_pairs!r}, want {' or '.join(map(repr, known))}")
        if not 0 <= self.pair_log <= 1:
            raise ConfigError(f"pair_log is {self.pair_log!r}, want a share of the pairs, 0 to 1")
        shown = self.eval_other_image
        if shown is not None and (shown.source != "made" or shown.changes_with_epoch):
            raise ConfigError(
                "eval_other_image must be made, and the same in every epoch, so that evaluations compare: give "
                "OtherImageSettings(source='made', kind='blank')"
            )

    def with_former_keywords(self, given: Mapping[str, Any]) -> TrainerOptions:
        """These options, with what scripts from before there were any gave to the trainer itself.

        Raises:
            TypeError: a keyword that is no option, or an option that is given both ways.
        """
        if not given:
            return self
        known = {field.name: field.default for field in fields(self)}
        if unknown := sorted(given.keys() - known.keys()):
            raise TypeError(
                f"PreferenceTrainer() got an unexpected keyword argument '{unknown[0]}'; its options are "
                f"{', '.join(sorted(known))}"
            )
        if twice := [name for name in given if getattr(self, name) is not known[name]]:
            raise TypeError(f"PreferenceTrainer() got '{twice[0]}' twice, by itself and in options; leave one out")
        names = ", ".join(f"{name}=..." for name in given)
        warnings.warn(
            f"former keywords of PreferenceTrainer: give them as options=TrainerOptions({names})",
            FormerKeywordWarning,
            stacklevel=3,
        )
        changes: dict[str, Any] = dict(given)
        if "callbacks" in changes:
            changes["callbacks"] = changes["callbacks"] or ()
        return replace(self, **changes)
