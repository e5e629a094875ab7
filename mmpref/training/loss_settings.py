"""The loss of a run: every key with its value, in one line, and with the number that ``tau_good: median`` gives.

Everything that trains, plans or checks a recipe takes its objective from here, so that all of them mean the same loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.errors import CheckpointError, ConfigError
from mmpref.files.hashes import Say
from mmpref.losses import build_objective, resolve, resolve_tau_good
from mmpref.losses.loss_line import loss_line
from mmpref.losses.objective import Objective
from mmpref.losses.settings import SuspiciousLossWarning
from mmpref.models.reference_rule import ReferenceChoice, reference_of
from mmpref.recipe.loading import with_loss
from mmpref.recipe.sections import Recipe
from mmpref.recipe.unused_keys import refuse_other_image, refuse_unread_reference
from mmpref.records import PreferencePair
from mmpref.rundir.folder import RunDir

SETTLED = "tau_good"
"""Key of the manifest under which a run keeps the number that its scores gave."""
_NAMES = {"adapter_off": "adapter off", "copied_adapter": "copied adapter", "frozen_copy": "frozen copy"}


@dataclass(frozen=True, slots=True)
class SettledScore:
    """``loss.uni.tau_good`` as the training scores gave it."""

    rule: str
    """``median`` or ``qNN``."""
    value: float
    scores: int
    """How many there were."""

    @property
    def described(self) -> str:
        """Rule and number of scores, as an addition to the value."""
        return f" ({self.rule} of {self.scores} training scores)"


def objective_of(recipe: Recipe) -> Objective:
    """The objective that a recipe asks for; a quantile of scores that are not known yet counts as 0.

    Raises:
        ConfigError: the loss cannot be as it is written, or does not use what another section gives it.
    """
    objective = objective_from(recipe.loss.as_mapping())
    refuse_unread_reference(recipe, needs_reference=objective.needs_reference, loss=_named(objective))
    refuse_other_image(recipe, needs_other=objective.needs_other, loss=_named(objective))
    return objective


def objective_from(loss: Mapping[str, Any]) -> Objective:
    """The objective of a ``loss:`` section, as :func:`objective_of` makes it."""
    uni = _quietly(loss)["uni"]
    known = {**loss, "uni": {**uni, "tau_good": 0.0}} if uni and isinstance(uni["tau_good"], str) else loss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective(known)


def objective_for(loss: Mapping[str, Any], pairs: Sequence[PreferencePair]) -> Objective:
    """The objective of a ``loss:`` section for training pairs whose scores a quantile is taken from."""
    objective = build_objective(resolve_tau_good(resolve(loss), [pair.score_chosen for pair in pairs]))
    if doubt := gate_that_never_moves(objective.settings["uni"], pairs):
        warnings.warn(doubt, SuspiciousLossWarning, stacklevel=2)
    return objective


def loss_written_out(recipe: Recipe) -> Recipe:
    """The recipe with every key of its loss written out; only here a suspicious loss gives a warning."""
    return with_loss(recipe, resolve(recipe.loss.as_mapping()))


def reference_for(recipe: Recipe, *, strategy: str = "single") -> ReferenceChoice:
    """What the reference will be for the loss of a recipe, before anything is loaded.

    Args:
        recipe: its loss says whether a reference is needed at all, if ``train.samples`` does not.
        strategy: how several processes share the work.

    Raises:
        ConfigError, DistributedError: see :func:`mmpref.models.reference_rule.choose`.
    """
    needed = objective_of(recipe).needs_reference or recipe.samples_name_reference
    return reference_of(recipe, needs_reference=needed, strategy=strategy)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe's loss with its value."""
    return _quietly(recipe.loss.as_mapping())


def asked_quantile(recipe: Recipe) -> str | None:
    """``median`` or ``qNN`` where the recipe leaves ``loss.uni.tau_good`` to the scores, and something reads it."""
    uni = settings_of(recipe)["uni"]
    return uni["tau_good"] if uni and isinstance(uni["tau_good"], str) and uni["nll_lambda"] else None


def settle(recipe: Recipe, pairs: Sequence[PreferencePair], run: RunDir | None, say: Say) -> SettledScore | None:
    """The number for ``loss.uni.tau_good`` where the recipe asks for a quantile of the scores.

    A number that all scores reach, or none, gives a warning: it is hardly on their scale.

    Args:
        recipe: asks for it.
        pairs: that train.
        run: the run that goes on; it keeps the number it began with, whatever the scores say now.
        say: called with the number and where it is from.

    Raises:
        CheckpointError: the run that goes on began with another quantile.
        DataError: no pair has a score.
    """
    rule = asked_quantile(recipe)
    if rule is None:
        if doubt := gate_that_never_moves(settings_of(recipe)["uni"], pairs):
            say(f"warning: {doubt}")
        return None
    stored = None if run is None else _stored(run)
    if stored is not None and stored.rule != rule:
        raise CheckpointError(
            f"the run in {run.path if run else ''} began with loss.uni.tau_good {stored.rule} (which was "
            f"{stored.value:g}), and the recipe says {rule}; go on with `loss.uni.tau_good={stored.rule}`"
        )
    scores = [pair.score_chosen for pair in pairs if pair.score_chosen is not None]
    if stored is not None:
        now = _quantile(rule, scores) if scores else None
        changed = "" if now == stored.value else f"; the scores now give {now:g}" if now is not None else ""
        say(f"loss.uni.tau_good stays {stored.value:g}{stored.described}{changed}")
        return stored
    found = SettledScore(rule, _quantile(rule, scores), len(scores))
    say(f"loss.uni.tau_good is {found.value:g}{found.described}")
    return found


def gate_that_never_moves(uni: Mapping[str, Any] | None, pairs: Sequence[PreferencePair]) -> str:
    """What is wrong with a number for ``tau_good`` that is on another scale than the scores; empty where nothing is.

    Then every pair passes that gate of the calibrated NLL, or none does.
    """
    scores = [pair.score_chosen for pair in pairs if pair.score_chosen is not None]
    if uni is None or not uni["nll_lambda"] or not scores:
        return ""
    reached = sum(score >= uni["tau_good"] for score in scores)
    if 0 < reached < len(scores):
        return ""
    what = "every one: this gate is always open" if reached else "none: no pair gets the calibrated NLL"
    return (
        f"of {len(scores)} chosen scores ({min(scores):g} to {max(scores):g}) loss.uni.tau_good {uni['tau_good']:g} is "
        f"reached by {what}; write `loss.uni.tau_good=median` for half of them"
    )


def with_score(recipe: Recipe, settled: SettledScore | None) -> Recipe:
    """The recipe with the number in the place of the quantile."""
    if settled is None or recipe.loss.uni is None:
        return recipe
    uni = recipe.loss.uni.model_copy(update={"tau_good": settled.value})
    return recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"uni": uni})})


def line_of(recipe: Recipe, *, reference: str | None = None, settled: SettledScore | None = None) -> str:
    """The loss of a recipe in one line.

    Args:
        recipe: the recipe.
        reference: the kind that is used, where the model has been seen; by default what the recipe leads to.
        settled: where ``tau_good`` comes from, if it was taken from the scores.
    """
    settings = settings_of(recipe)
    needs_reference = objective_from(recipe.loss.as_mapping()).needs_reference
    kind = reference or reference_of(recipe, needs_reference=needs_reference).kind
    scores = settled.described if settled else " of the training scores" if asked_quantile(recipe) else ""
    return loss_line(settings, reference=_NAMES.get(kind, kind), scores=scores)


def facts_for_manifest(recipe: Recipe, line: str, settled: SettledScore | None) -> dict[str, Any]:
    """What the manifest of a run has about its loss."""
    kept: dict[str, Any] = {"loss": settings_of(recipe), "loss_line": line}
    if settled is not None:
        kept[SETTLED] = {"rule": settled.rule, "value": settled.value, "scores": settled.scores}
    return kept


def _quietly(loss: Mapping[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return resolve(loss)


def _stored(run: RunDir) -> SettledScore | None:
    found = run.manifest().get(SETTLED)
    if found is None:
        return None
    try:
        return SettledScore(str(found["rule"]), float(found["value"]), int(found["scores"]))
    except (KeyError, TypeError, ValueError) as err:
        raise ConfigError(f"{run.path}: the manifest's {SETTLED} is damaged: {found!r}") from err


def _quantile(rule: str, scores: Sequence[float]) -> float:
    return float(resolve_tau_good({"uni": {"tau_good": rule}}, scores)["uni"]["tau_good"])


def _named(objective: Objective) -> str:
    settings = objective.settings
    return str(settings["name"] or settings["base"])
