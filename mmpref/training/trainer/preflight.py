"""Start-up checks on the first pairs of a run, which catch silent failures before training starts.

A model that does not see its images still lowers its loss; so does one whose reference is another model, or whose
second answer reads the first. Each check runs a few forwards and says what a failure means.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from mmpref.errors import ConfigError, DataError, one_line
from mmpref.models.adapters.weights import plain_name
from mmpref.models.logps.answer_logps import answer_logps, answer_sums
from mmpref.models.logps.image_inputs import TWO_MODELS
from mmpref.models.logps.layout_choice import EXACT, tolerance
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.logps.reference import Reference, eval_mode
from mmpref.models.unwrap import base_model, is_engine, unwrap
from mmpref.processing.batch import PairBatch, is_of_videos
from mmpref.processing.collate import PairCollator
from mmpref.processing.family import Family, PartName
from mmpref.processing.pixels import num_pixels
from mmpref.records import PreferencePair, PromptKey
from mmpref.training.parallel.sharded import as_shards
from mmpref.training.trainer.learning import REENTRANT, in_places, is_reentrant, look, modes_kept
from mmpref.training.trainer.memory_errors import MemorySituation, Where, explain_oom, is_out_of_memory, remedies
from mmpref.training.trainer.other_image_check import other_image_matters
from mmpref.training.trainer.start_check import Check
from mmpref.training.trainer.train_mode import dropout_of, why_it_differs
from mmpref.training.trainer.update_watch import describe_batch

GRADIENTS = "gradients reach what trains"
"""Name of the check that runs a backward."""
_LOOKED_THROUGH = 1000
"""Pairs among which some that have a prompt in common are looked for."""
_OF_A_GROUP = 2
"""Pairs of one prompt that are looked at: three answers, or four."""
_OF_SHAPES = re.compile(r"\b(shape|size)s?\b")
Context = Callable[[], AbstractContextManager[object]]


def preflight(
    model: nn.Module,
    collator: PairCollator,
    pairs: Sequence[PreferencePair],
    reference: Reference | None = None,
    *,
    device: torch.device | str = "cpu",
    autocast: Context = nullcontext,
    args: TrainingArguments | None = None,
) -> list[Check]:
    """Run every check, and stop at the first that fails.

    Nothing is changed: random states, modes and gradients are as before.

    Args:
        model: the policy before its first step, on ``device``.
        pairs: the training pairs; the first one, the first ones with images and with videos, and the first ones that
            share a prompt are looked at.
        reference: as the trainer will use it; None where the loss needs none.
        autocast: the precision that training runs in.
        args: of the training: whether and how activations are checkpointed, and what would help where memory runs out.

    Raises:
        ConfigError: a check failed; says which and what it means.
        OutOfMemoryError: memory ran out; says on which pairs and which keys would help most.
    """
    found = []
    for check in run_checks(model, collator, pairs, reference, device=device, autocast=autocast, args=args):
        if check.passed is False:
            raise ConfigError(
                f"start-up check '{check.name}' failed: {check.detail}. {check.meaning} (preflight: false skips the "
                "checks)"
            )
        found.append(check)
    return found


def run_checks(
    model: nn.Module,
    collator: PairCollator,
    pairs: Sequence[PreferencePair],
    reference: Reference | None = None,
    *,
    device: torch.device | str = "cpu",
    autocast: Context = nullcontext,
    args: TrainingArguments | None = None,
) -> Iterator[Check]:
    """The checks one by one, as :func:`preflight` runs them."""
    looked_at = _few(pairs)
    bench = _Bench(model, collator, looked_at, _of_one_prompt(pairs) or looked_at[-1:], torch.device(device), autocast)
    devices = [bench.device] if bench.device.type == "cuda" else []
    of_videos = (_videos_matter,) if any(pair.videos for pair in looked_at) else ()
    of_others = (partial(_other_image_matters, pairs=pairs),) if collator.need_other else ()
    checks: tuple[Callable[[_Bench], Check], ...] = (
        _images_count,
        _images_matter,
        *of_videos,
        *of_others,
        _layouts_agree,
        _batch_is_single,
    )
    with torch.random.fork_rng(devices=devices):
        with eval_mode(model), torch.no_grad(), autocast(), bench.explain_oom(args, Where.FORWARD):
            for check in checks:
                yield check(bench)
            noise = getattr(args, "neftune_noise_alpha", None) or 0.0
            yield _reference_is_policy(bench, reference, noise)
        with bench.explain_oom(args, Where.BACKWARD):
            yield _parts_learn(bench, args)


@dataclass(frozen=True, slots=True)
class _Bench:
    """What the checks work on."""

    model: nn.Module
    collator: PairCollator
    pairs: list[PreferencePair]
    group: list[PreferencePair]
    """Pairs of one prompt; one alone where no prompt has several."""
    device: torch.device
    autocast: Context
    looked_at: list[PairBatch] = field(default_factory=list)  # the batch made last, still on the CPU

    def batch(self, pairs: Sequence[PreferencePair] | None = None) -> PairBatch:
        made = self.collator(self.pairs if pairs is None else pairs)
        self.looked_at[:] = [made]
        return made.to(self.device)

    def explain_oom(self, args: TrainingArguments | None, running: Where) -> AbstractContextManager[None]:
        """Memory that runs out in a check is explained with the pairs it looked at, as in training."""

        def where() -> str:
            return f"checking {', '.join(map(describe_batch, self.looked_at)) or 'the start'} before the first step"

        def helps() -> list[str]:
            pixels = sum(num_pixels(batch.vision, of_videos=False) for batch in self.looked_at)
            frames = sum(count for batch in self.looked_at for count in batch.video_frames)
            encoder = self.collator.encoder
            return remedies(MemorySituation.of(running, self.model, args, encoder, pixels=pixels, frames=frames))

        return explain_oom(where, helps)

    @property
    def bound(self) -> float:
        """How far a token's log-prob may move on average between exact ways, in the precision of training."""
        with self.autocast():
            half = torch.is_autocast_enabled(self.device.type)
        return tolerance(self.model, half=half)

    def difference(self, one: Tensor, other: Tensor) -> float:
        """Mean over tokens of |difference|, for [A, L] log-probs that are 0 where there is no token."""
        tokens = ((one != 0) | (other != 0)).sum().clamp(min=1)
        return float((one - other).abs().sum() / tokens)

    def judged(self, name: str, off: float, differ: str, meaning: str, remark: str = "") -> Check:
        """The check that two exact ways agree, from how far apart they were found, in nats a token on average."""
        if off <= self.bound:
            return Check(name, True, f"{off:.2g} nats per token{remark}")
        return Check(name, False, f"{differ} {off:.3g} nats on average, and {self.bound:g} is allowed", meaning)


def _few(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The first pair, the first with images, and the first with videos."""
    with_image = next((pair for pair in pairs if pair.images), None)
    with_video = next((pair for pair in pairs if pair.videos), None)
    found = [pairs[0]]
    for one in (with_image, with_video):
        if one is not None and all(one is not other for other in found):
            found.append(one)
    if len(found) == 1 and len(pairs) > 1:
        found.append(pairs[1])
    return found


def _of_one_prompt(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Of those near the beginning, the first that have a prompt in common, with images if any of these have."""
    groups: dict[PromptKey, list[PreferencePair]] = {}
    for pair in pairs[:_LOOKED_THROUGH]:
        groups.setdefault(pair.prompt_key, []).append(pair)
    several = [group for group in groups.values() if len(group) > 1]
    return next((group for group in several if group[0].images), several[0] if several else [])[:_OF_A_GROUP]


def _images_count(bench: _Bench) -> Check:
    name = "image tokens and features"
    if not bench.collator.encoder.family.has_vision:
        return Check(name, None, "a model for text")
    batch = bench.batch()  # the collator counts each prompt's image tokens against its own images
    if not batch.vision:
        return Check(name, None, "no pair with images among those looked at")
    counts = []
    for kind, is_there in (
        ("image", any(pair.images for pair in bench.pairs)),
        ("video", any(pair.videos for pair in bench.pairs)),
    ):
        if not is_there:
            continue
        token = token_of(bench.model, kind)
        count = int((batch.input_ids == token).sum()) if token is not None else 0
        if token is not None and not count:
            return Check(
                name, False, f"the model's config looks for token {token} in place of {_AN[kind]}, and no prompt has "
                "one", f"The model would not find its {kind}s: use the tokenizer that belongs to it.",
            )  # fmt: skip
        counts.append(f"{count} {kind} tokens")
    return Check(name, True, f"{' and '.join(counts)} in {len(batch)} pairs, each pair its own")


_AN = {"image": "an image", "video": "a video"}


def token_of(model: nn.Module, kind: str) -> int | None:
    """The id that the model's config gives to the places of images or videos, or None.

    Args:
        kind: ``image`` or ``video``.
    """
    config: object = base_model(model).config
    found = (getattr(config, f"{kind}_token_{name}", None) for name in ("id", "index"))
    return next((int(token) for token in found if token is not None), None)


def _images_matter(bench: _Bench) -> Check:
    return _matters(bench, [pair for pair in bench.pairs if pair.images], "image")


def _videos_matter(bench: _Bench) -> Check:
    return _matters(bench, [pair for pair in bench.pairs if pair.videos], "video")


def _other_image_matters(bench: _Bench, pairs: Sequence[PreferencePair]) -> Check:
    return other_image_matters(bench.model, bench.collator, pairs, bench.device)


def _matters(bench: _Bench, pairs: Sequence[PreferencePair], kind: str) -> Check:
    name = f"the {kind} changes the answer's log-probs"
    if not pairs or not bench.collator.encoder.family.has_vision:
        return Check(name, None, f"no pair with {kind}s among those looked at")
    batch = bench.batch(pairs[:1])
    of_kind = {key: value for key, value in batch.vision.items() if is_of_videos(key) == (kind == "video")}
    blank = dataclasses.replace(batch, vision={**batch.vision, **{key: _blanked(of_kind[key]) for key in of_kind}})
    try:
        seen, unseen = (one.by_answer(answer_logps(bench.model, one)) for one in (batch, blank))
    except (DataError, RuntimeError) as err:
        # a tower that is given what it does not expect says so by shapes; memory has its own handler
        if not isinstance(err, DataError) and (is_out_of_memory(err) or not _OF_SHAPES.search(str(err))):
            raise
        said = one_line(err).removesuffix(f": {TWO_MODELS}")
        return Check(
            name, False, f"the model refuses the {kind}s of '{pairs[0].id}': {said}",
            "Processor and model do not belong together: use the config.json, the processor and the tokenizer of one "
            "model.",
        )  # fmt: skip
    moved = float((seen - unseen).abs().max())
    if moved > 1e-6:
        return Check(name, True, f"blanking it moves a token by up to {moved:.3g} nats")
    return Check(
        name, False, f"blanking the {kind} of '{pairs[0].id}' moves no token",
        f"The model does not see its {kind}s: look at the chat template (does it write a place for {_AN[kind]}?), at "
        f"the {kind} token of tokenizer and config, and that the weights are those of this architecture.",
    )  # fmt: skip


def _blanked(value: Tensor) -> Tensor:
    """A constant in place of the image; exact zeros stay, because some processors mark padding with them."""
    return torch.where(value == 0, value, torch.full_like(value, 0.1)) if value.is_floating_point() else value


def _layouts_agree(bench: _Bench) -> Check:
    if bench.collator.layout != "shared_prefix":
        return _head_is_logits(bench)
    name = "shared prefix equals separate rows"
    pairs = bench.group
    shared = bench.batch(pairs)
    plain = bench.collator.changed(layout="plain")(pairs).to(bench.device)
    one = shared.by_answer(answer_logps(bench.model, shared))
    other = plain.by_answer(answer_logps(bench.model, plain, through_logits=True))
    off = bench.difference(one, other)
    return bench.judged(
        name, off, f"tokens of {' and '.join(repr(pair.id) for pair in pairs)} differ by",
        "This model's attention, positions or output head do not work as the shared layout needs them: set "
        "model.attention: plain, and please report the model type.",
        f"; {len(pairs)} pairs of one prompt" if len(pairs) > 1 else "",
    )  # fmt: skip


def _head_is_logits(bench: _Bench) -> Check:
    name = "log-probs equal those of the model's own logits"
    batch = bench.batch(bench.pairs[-1:])
    one, other = (batch.by_answer(answer_logps(bench.model, batch, through_logits=whole)) for whole in (False, True))
    off = bench.difference(one, other)
    takes = inspect.signature(base_model(bench.model).forward).parameters
    # a text model's token types are those of BERT, if it knows any
    if bench.collator.encoder.family.has_vision and "token_type_ids" in takes and not batch.token_types:
        return Check(
            name, False, "the model takes token_type_ids, which say what reads in both directions, and gets none",
            "Prompts would be read otherwise than the model was trained: please report the model type.",
        )  # fmt: skip
    if batch.token_types and (ahead := bench.difference(one, _with_other_ends(bench, batch))) > bench.bound:
        return Check(
            name, False, f"the last token of an answer moves the tokens before it by {ahead:.3g} nats on average",
            f"This model reads its answers in both directions: what its processor says of tokens "
            f"({', '.join(batch.token_types)}) is not understood here; please report the model type.",
        )  # fmt: skip
    return bench.judged(
        name, off, "tokens differ by",
        "This model changes its logits after the output head in a way that is not known here: please report the model "
        "type.",
        "; pairs are run as separate rows",
    )  # fmt: skip


def _with_other_ends(bench: _Bench, batch: PairBatch) -> Tensor:
    """[A, L] log-probs of the same targets when every answer's last token is another one as the model reads it.

    Nothing may move: a token is predicted from what stands before it.
    """
    there = batch.answer_lens > 0  # a pair without another image has no answer under one
    answers, lengths = batch.answers[there], batch.answer_lens[there]
    last = answers.gather(1, (lengths - 1)[:, None])[:, 0]
    places = batch.predicts[last] + 1
    ids = batch.input_ids.clone().flatten()
    ids[places] = batch.targets[answers[:, 0]]  # a token of text
    changed = dataclasses.replace(batch, input_ids=ids.view_as(batch.input_ids))
    return batch.by_answer(answer_logps(bench.model, changed))


def _batch_is_single(bench: _Bench) -> Check:
    name = "a batch equals its pairs alone"
    if len(bench.pairs) < 2:
        return Check(name, None, "one pair only")
    batch = bench.batch()
    together = batch.by_answer(answer_logps(bench.model, batch))
    worst = 0.0
    for number, pair in enumerate(bench.pairs):
        single = bench.batch([pair])
        alone = single.by_answer(answer_logps(bench.model, single))
        rows = together[number :: len(batch)]
        worst = max(worst, bench.difference(rows[:, : alone.shape[1]], alone))
    return bench.judged(
        name, worst, "tokens differ by",
        "Pairs of one batch leak into each other in this model; set train.per_device_train_batch_size: 1, and please "
        "report the model type.",
    )  # fmt: skip


def _reference_is_policy(bench: _Bench, reference: Reference | None, noise: float) -> Check:
    name = "policy equals reference before the first step"
    if reference is None:
        return Check(name, None, "the loss reads no reference")
    batch = bench.batch()
    policy = answer_sums(bench.model, batch)
    referred = torch.cat([side for side in reference.logps(batch) if side is not None])
    off = _per_token(batch, policy - referred)
    if not reference.is_start:
        return Check(name, None, f"the base was asked for; answers are {off:.3g} nats a token from it, at most")
    found = bench.judged(
        name, off, "log-probs differ by",
        "The reference is not the policy that training starts from: a stale cache, another base model, or an adapter "
        "that was trained before.",
    )  # fmt: skip
    if found.passed and noise:  # put on when training begins, and not to be seen here
        return dataclasses.replace(
            found,
            meaning=f"Margins do not start at 0: train.extra.neftune_noise_alpha {noise:g} adds noise to the policy's "
            "embeddings while it trains and never to the reference's; leave it out to train without",
        )
    return _as_it_trains(bench, reference, batch, policy, found) if found.passed else found


def _per_token(batch: PairBatch, differences: Tensor) -> float:
    """The largest of [A] differences of sums, in nats a token, as the batch weighs tokens; 0 where no answer is."""
    there = batch.answer_lens > 0
    return float((differences.abs()[there] / batch.effective_lens[there]).max())


def _as_it_trains(bench: _Bench, reference: Reference, batch: PairBatch, evaluated: Tensor, found: Check) -> Check:
    """What was found, with how far training mode takes the policy from what it is when it is evaluated."""

    def moved(*, adapter_drops: bool) -> float:
        with modes_kept(bench.model):
            bench.model.train()  # as the trainer does
            for name, module in bench.model.named_modules():
                if ".lora_dropout" in name and not adapter_drops:
                    module.eval()
            logps = pair_logps(bench.model, batch, reference=reference)
        sides = [side for side in (logps.chosen, logps.rejected, logps.other) if side is not None]
        return _per_token(batch, torch.cat(sides) - evaluated)

    dropout = dropout_of(bench.model)
    if is_engine(bench.model):  # it counts what is run in this mode as the beginning of an update
        remark = "" if dropout.places or dropout.adapter else ", so every margin starts at 0"
        why = f"Margins may not start at 0: {why_it_differs(bench.model)}" if dropout.places else ""
        return dataclasses.replace(found, detail=found.detail + remark, meaning=why)
    # as many forwards whatever they find: where weights are sharded, every rank waits for the others in each
    off = moved(adapter_drops=False)
    with_adapter = moved(adapter_drops=True) if dropout.adapter else 0.0
    if off > EXACT:
        return dataclasses.replace(
            found,
            detail=f"{found.detail} when evaluated, and up to {off:.3g} as the policy trains",
            meaning=f"Margins do not start at 0: {why_it_differs(bench.model)}",
        )
    if with_adapter > EXACT:
        remark = f"; adapter.dropout {dropout.adapter:g} moves the policy by up to {with_adapter:.3g} as it trains"
        return dataclasses.replace(found, detail=found.detail + remark)
    return dataclasses.replace(found, detail=f"{found.detail}, so every margin starts at 0")


def _parts_learn(bench: _Bench, args: TrainingArguments | None) -> Check:
    name = GRADIENTS
    family = bench.collator.encoder.family
    blind = [part for part in _trained_parts(bench.model, family) if part != "language"]
    shown = next((pair for pair in bench.pairs if pair.images or pair.videos), None)
    if blind and shown is None:
        what = "image" if family.video is None else "image or video"
        return Check(
            name, False, f"{' and '.join(blind)} shall train, and no training pair has an {what}",
            f"Set {', '.join(f'tune.{part}=freeze' for part in blind)}, or train on pairs with images.",
        )  # fmt: skip

    if is_engine(bench.model):
        remark = "DeepSpeed takes gradients away as they come; grad_norm of the first step shows them"
        if is_reentrant(bench.model):
            remark += f"; reentrant checkpointing may cut parts off without a word: {REENTRANT} does not"
        return Check(name, None, remark)
    as_shards(bench.model)

    def loss() -> Tensor:
        with bench.autocast():
            batch = bench.batch([bench.pairs[-1] if shown is None else shown])
            chosen, rejected, _ = batch.by_side(answer_sums(bench.model, batch))
            return chosen.sum() if rejected is None else (2 * chosen - rejected).sum()

    found = look(bench.model, family, loss, args)
    if broken := found.broken:
        return Check(
            name, False, f"{len(broken)} of {len(found.tensors)} gradients are not finite (first {broken[0]})",
            "Train in bf16 or float32 in place of fp16, and look at the pair named first in the data.",
        )  # fmt: skip
    if found.lost:
        how, fix = ("reentrant ", REENTRANT) if found.reentrant else ("", "train.gradient_checkpointing=false")
        parts = dict.fromkeys(one.part for one in found.tensors if one.name in found.lost)
        return Check(
            name, False, f"{found.counts()}; {how}gradient checkpointing cuts off {in_places(found.lost)}",
            f"These tensors of {' and '.join(parts)} would learn nothing: set {fix}.",
        )  # fmt: skip
    if not any(one.reached for one in found.tensors):
        return Check(
            name, False, f"none of {len(found.tensors)} trained tensors gets a gradient",
            "Nothing would be learnt: look at the tune and adapter sections, and at quantised layers in eval mode.",
        )  # fmt: skip
    if idle := found.idle:
        return Check(
            name, False, f"{found.counts()}: nothing of {' and '.join(idle)} gets one",
            f"The loss does not depend on it: set {', '.join(f'tune.{part}=freeze' for part in idle)}, or look at "
            "the adapter section, and at quantised layers in eval mode.",
        )  # fmt: skip
    missed = found.not_reached()
    remark = f"; none for {missed}, which the loss does not depend on" if missed else ""
    return Check(name, True, f"{found.counts()} tensors get one{remark}", unused=found.unused)


def _trained_parts(model: nn.Module, family: Family) -> list[PartName]:
    named = unwrap(model).named_parameters()
    return list(dict.fromkeys(family.part_of(plain_name(name)) for name, value in named if value.requires_grad))
