"""Answers of the model that is being trained to fixed prompts, their log-probs, and the KL to the reference."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmpref.errors import ConfigError, NonFiniteError
from mmpref.files.hashes import Say
from mmpref.generation.settings import AnswerSettings, SampleSettings
from mmpref.generation.with_tokens import PromptAnswerer, Written
from mmpref.losses.kl_estimators import k1_and_k3
from mmpref.models.frozen_tower import FrozenFeatures
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.reference import ReferencePolicy, eval_mode
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch
from mmpref.processing.length_plan import FitPlan
from mmpref.recipe.sections import SamplesSection
from mmpref.records import Message, PreferencePair
from mmpref.training.run.setup import Setup
from mmpref.training.trainer.memory_errors import explain_oom
from mmpref.training.trainer.trainer import PreferenceTrainer

GREEDY, DRAWN = "greedy", "drawn"
Line = dict[str, Any]
"""One answer, as samples.jsonl has it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer that is wanted: the number of the prompt, and of the drawn answer to it (None: the greedy one)."""

    prompt: int
    draw: int | None = None

    @property
    def kind(self) -> str:
        """How its tokens are chosen."""
        return GREEDY if self.draw is None else DRAWN


@dataclass(frozen=True, slots=True)
class _Logps:
    """Of the tokens of one answer, [L] each, under the policy and under the reference where there is one."""

    own: Tensor
    reference: Tensor | None

    @property
    def are_finite(self) -> bool:
        return all(bool(one.isfinite().all()) for one in (self.own, self.reference) if one is not None)


class PromptSampler:
    """Asks the model of a trainer some prompts as it is at a step. Nothing that trains is changed by it.

    Ranks share the prompts; all must call :meth:`answers` together.

    Args:
        settings: how often, and how long answers may be.
        setup: the model with its pairs and its reference.
        trainer: that trains it.
        say: called with a line where something is not as asked for.

    Attributes:
        reference: what drawn answers are compared with; None where there is no model to ask.
    """

    def __init__(self, settings: SamplesSection, setup: Setup, trainer: PreferenceTrainer, say: Say) -> None:
        self._settings, self._trainer, self._say = settings, trainer, say
        self._prompts = choose_prompts(settings, setup.eval, setup.train, setup.loaded.family.places, say)
        self.reference = setup.reference if isinstance(setup.reference, ReferencePolicy) else None
        self._draws = settings.kl if self.reference is not None else 0
        collator = trainer.collator.with_features(None).of_chosen()
        self._collator = copy.copy(collator)
        self._collator.keyed, self._collator.filler = False, None
        model: Any = base_model(setup.loaded.model)
        loaded = replace(setup.loaded, model=model)
        self._answerers = {
            kind: PromptAnswerer(
                loaded,
                self._collator,
                AnswerSettings(max_new_tokens=settings.max_new_tokens),
                SampleSettings(temperature=temperature),
            )
            for kind, temperature in ((GREEDY, 0.0), (DRAWN, 1.0))
        }

    def answers(self, step: int) -> list[Line]:
        """Every answer of this step, in the order of the prompts, on every rank.

        Raises:
            DataError: an image cannot be read any more.
            NonFiniteError: the model's log-probs are no numbers.
            OutOfMemoryError: with the keys that would help.
        """
        world = self._trainer.world
        mine = range(world.rank, len(self._prompts), world.size)
        asked = [Asked(number, draw) for number in mine for draw in (None, *range(self._draws))]
        world.report_progress(step, "answering train.samples", [self._prompts[number].id for number in mine])
        with world.fail_together():
            found = self._asked(step, asked)
        return [line for _, line in sorted((entry for rank in world.gather(found) for entry in rank), key=_place)]

    def _asked(self, step: int, asked: Sequence[Asked]) -> list[tuple[tuple[int, int], Line]]:
        trainer = self._trainer
        doing = f"answering train.samples, step {step}"
        smaller = [
            *([f"train.samples.count={len(self._prompts) // 2}"] if len(self._prompts) > 1 else []),
            f"train.samples.max_new_tokens={max(1, self._settings.max_new_tokens // 2)}",
        ]
        try:
            with (
                explain_oom(lambda: doing, lambda: smaller),
                eval_mode(trainer.model),
                torch.no_grad(),
                trainer.compute_loss_context_manager(),
            ):
                written = self._written(step, asked)
                logps = self._logps([answer for _, answer in written])
        except NonFiniteError as err:
            raise NonFiniteError(
                f"step {step}, train.samples: {err}. Weights that hold NaN or infinity come of too large an update: "
                "start again with a lower train.learning_rate"
            ) from err
        finally:
            torch.clear_autocast_cache()  # half-precision copies of weights made here would carry no gradient
        return [
            ((one.prompt, -1 if one.draw is None else one.draw), self._line(step, one, answer, read))
            for (one, answer), read in zip(written, logps, strict=True)
        ]

    def _written(self, step: int, asked: Sequence[Asked]) -> list[tuple[Asked, Written]]:
        """The answers, as far as memory allows."""
        found: list[tuple[Asked, Written]] = []
        for kind, answerer in self._answerers.items():
            wanted = [one for one in asked if one.kind == kind]
            prompts = [(self._prompts[one.prompt], self._seed(step, one)) for one in wanted]
            for one, answer in zip(wanted, answerer.write(prompts), strict=True):
                if answer is not None:
                    found.append((one, answer))
            for why in dict.fromkeys(answerer.failures.values()):
                self._say(f"train.samples, step {step}: {why}")
            answerer.failures.clear()
        return found

    def _seed(self, step: int, asked: Asked) -> int:
        """Of one answer; at each step another, so that the errors of two steps are independent."""
        text = f"{self._settings.seed}/{step}/{asked.draw}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def _logps(self, answers: Sequence[Written]) -> list[_Logps | None]:
        """Log-probs of the tokens of each answer; None where none can be read.

        They are read once more from the beginning, by the path on which the loss reads them. A token that stands for an
        image or a video cannot be read in an answer, which is read up to it.
        """
        encoder, size = self._collator.encoder, self._trainer.args.per_device_eval_batch_size
        shown = {encoder.chat.image_token_id, encoder.chat.video_token_id} - {None}
        read = [list(itertools.takewhile(lambda token: token not in shown, answer.tokens)) for answer in answers]
        found: list[_Logps | None] = [None] * len(answers)
        there = [place for place, tokens in enumerate(read) if tokens]
        for start in range(0, len(there), size):
            places = there[start : start + size]
            encoded = [encoder.answered(str(place), answers[place].prompt, read[place]) for place in places]
            for batch in self._collator.rows_of(encoded):  # which puts those of one prompt together
                for place, one in zip(map(int, batch.pair_ids), self._logps_of(batch), strict=True):
                    found[place] = one
        return found

    def _logps_of(self, batch: PairBatch) -> list[_Logps]:
        model, reference = self._trainer.model, self.reference
        here = batch.to(self._trainer.args.device)
        other: Tensor | None = None
        if reference is None:
            own = answer_logps(model, here)
        else:  # what is frozen of the vision tower runs once for both
            features = FrozenFeatures(model)
            with features.recording():
                other = reference.token_logps(here)
            with features.replaying():
                own = answer_logps(model, here)
        lengths = here.answer_lens.tolist()
        policy, others = here.by_answer(own).cpu(), None if other is None else here.by_answer(other).cpu()
        return [
            _Logps(policy[row, :length], None if others is None else others[row, :length])
            for row, length in enumerate(lengths)
        ]

    def _line(self, step: int, asked: Asked, answer: Written, logps: _Logps | None) -> Line:
        pair = self._prompts[asked.prompt]
        line: Line = {
            "step": step,
            "id": pair.id,
            "kind": asked.kind,
            "prompt": text_of(pair.prompt),
            "images": [image.path for image in pair.images if image.path is not None],
            "text": answer.text,
            "tokens": len(answer.tokens),
            "cut": answer.cut,
        }
        if asked.draw is not None:
            line["draw"] = asked.draw
        if logps is None:
            return line
        if not logps.are_finite:
            raise NonFiniteError(
                f"step {step}, train.samples: log-probs of an answer to the prompt of '{pair.id}' are no numbers; "
                "start again with a lower train.learning_rate"
            )
        line["logp"] = float(logps.own.double().sum())
        if logps.reference is not None:
            line["ref_logp"] = float(logps.reference.double().sum())
            if asked.draw is not None:
                k1, k3 = k1_and_k3(logps.own[None], logps.reference[None])
                line |= {"k1": float(k1[0]), "k3": float(k3[0])}
        return line


def _place(entry: tuple[tuple[int, int], Line]) -> tuple[int, int]:
    return entry[0]


def metrics_of(lines: Sequence[Line]) -> dict[str, float]:
    """What metrics.jsonl says of the answers of one step, under names that begin with ``samples/``.

    ``len`` is the mean number of tokens and ``n`` the number of answers: of the drawn ones, or of the greedy ones
    where none were drawn. ``kl_k1`` and ``kl_k3`` are means over the drawn answers whose log-probs could be read, in
    nats per answer, and ``..._se`` their standard errors over prompts, whose answers belong together.
    """
    drawn = [line for line in lines if line["kind"] == DRAWN]
    counted, read = drawn or list(lines), [line for line in drawn if "k1" in line]
    if not counted:
        return {}
    found = {
        "samples/len": math.fsum(line["tokens"] for line in counted) / len(counted),
        "samples/cut": sum(line["cut"] for line in counted) / len(counted),
        "samples/n": float(len(counted)),
    }
    for name in ("k1", "k3") if read else ():
        by_prompt: dict[str, list[float]] = {}
        for line in read:
            by_prompt.setdefault(line["id"], []).append(line[name])
        found[f"samples/kl_{name}"] = math.fsum(line[name] for line in read) / len(read)
        if len(by_prompt) > 1:
            found[f"samples/kl_{name}_se"] = _standard_error(by_prompt)
    return found


def _standard_error(by_prompt: Mapping[str, Sequence[float]]) -> float:
    """Of the mean over all values, where those of one prompt belong together (a ratio of sums over prompts)."""
    count = sum(map(len, by_prompt.values()))
    mean = math.fsum(value for values in by_prompt.values() for value in values) / count
    off = [math.fsum(value - mean for value in values) for values in by_prompt.values()]
    groups = len(by_prompt)
    return math.sqrt(groups / (groups - 1) * math.fsum(one**2 for one in off)) / count


def choose_prompts(
    settings: SamplesSection, held_out: FitPlan, train: FitPlan, places: int | None, say: Say
) -> list[PreferencePair]:
    """Pairs whose prompts are answered: in the order of a hash of their ids, each prompt once.

    Args:
        held_out: pairs that are taken where there are any.
        train: pairs that are taken where there are none.
        places: tokens that the model has places for; None without a limit.
        say: called where there are fewer than were asked for.

    Raises:
        ConfigError: no prompt can be answered; says why, and what to write.
    """
    plan, name = (held_out, "held-out") if held_out.pairs else (train, "training")
    possible, with_videos, too_long = _possible(settings, plan, places)
    if not possible:
        whys = [f"{with_videos} show videos, which only training reads"] if with_videos else []
        room = 0
        if too_long and places is not None:
            room = places - min(too_long)
            whys.append(
                f"{len(too_long)} leave less space than train.samples.max_new_tokens={settings.max_new_tokens} in the "
                f"{places} tokens that this model has places for"
            )
        shorter = f"write `train.samples.max_new_tokens={room}`; or " if room > 0 else ""
        raise ConfigError(
            f"train.samples: none of the {len(plan.pairs)} {name} pairs has a prompt that can be answered "
            f"({'; '.join(whys)}): {shorter}write `train.samples=null`"
        )
    ordered = sorted(possible, key=lambda pair: hashlib.blake2b(f"{settings.seed}/{pair.id}".encode()).digest())
    by_prompt: dict[Any, PreferencePair] = {}
    for pair in ordered:
        by_prompt.setdefault(pair.prompt_key, pair)
    chosen = list(by_prompt.values())[: settings.count]
    if len(chosen) < settings.count:
        say(f"train.samples: the {name} pairs have {len(chosen)} different prompts, of {settings.count} asked for")
    return chosen


def _possible(
    settings: SamplesSection, plan: FitPlan, places: int | None
) -> tuple[list[PreferencePair], int, list[int]]:
    """Pairs whose prompts can be answered, the number of those with videos, and the lengths of too long prompts."""
    possible, with_videos, longest = [], 0, []
    for pair, fit in zip(plan.pairs, plan.fits, strict=True):
        length = fit.prompts[0].tokens
        if pair.videos:
            with_videos += 1
        elif places is not None and length + settings.max_new_tokens > places:
            longest.append(length)
        else:
            possible.append(pair)
    return possible, with_videos, longest


def text_of(prompt: Iterable[Message]) -> str:
    """A prompt as people read it: its text, and who says what where there are several turns."""
    turns = list(prompt)
    if len(turns) == 1:
        return turns[0].text.strip()
    return "\n".join(f"{turn.role}: {turn.text.strip()}" for turn in turns)
