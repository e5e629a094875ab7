"""Which pairs fit into ``max_length``, planned before the first step: nothing is cut by surprise in mid-run.

The rule, the same for both sides of a pair: first its images get a smaller pixel budget (where the recipe allows it),
then the tails of its answers are cut, and a pair whose prompt leaves no space at all is quarantined. Image tokens are
never cut, nor are those of videos. Pairs of one prompt get the smallest budget that any of them needs: they show the
same images, which are run once where the pairs meet. Lengths come from the text and from the sizes in the headers of
images and videos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mmpref.errors import DataError
from mmpref.process.children import begin_loader_worker
from mmpref.processing.chat.conversation import PROVED_IN_FULL, Turns
from mmpref.processing.chat.spelt_tokens import SpeltOut
from mmpref.processing.encode import PairEncoder
from mmpref.processing.errors import EncodeError, fault
from mmpref.processing.other_images import other_refs, refuse_other_size, same_again
from mmpref.processing.pair_fit import Fit, PromptLength
from mmpref.records import ImageRef, PreferencePair, PromptKey, VideoRef, VideoShape

ImageSize = Callable[[ImageRef], tuple[int, int]]
"""(width, height) of an image as it will be shown, from its header."""
OneColour = Callable[[ImageRef], bool]
"""Whether every pixel of an image is the same."""
ShapeOfVideo = Callable[[VideoRef], VideoShape]
"""Size and times of the frames of a video that will be shown, from its header."""

EXAMPLES = 5


@dataclass(slots=True)
class FitPlan:
    """What was planned for all pairs. Kept + set aside = planned, always."""

    pairs: list[PreferencePair] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)  # of each kept pair
    set_aside: list[tuple[PreferencePair, EncodeError]] = field(default_factory=list)

    @property
    def budgets(self) -> dict[PromptKey, int]:
        """Prompt -> smaller ``max_pixels`` of its images and frames, for ``PairEncoder``."""
        planned = zip(self.pairs, self.fits, strict=True)
        return {pair.prompt_key: fit.max_pixels for pair, fit in planned if fit.max_pixels is not None}

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt + answer that will be run."""
        return max((fit.longest for fit in self.fits), default=0)

    def report(self) -> dict[str, Any]:
        """Counts and a few examples of each kind, for the run's manifest."""
        shrunk = [fit for fit in self.fits if fit.max_pixels is not None]
        cut = [fit for fit in self.fits if fit.num_cut]
        answer_tokens = sum(sum(fit.answers) for fit in self.fits)
        return {
            "pairs": len(self.pairs),
            "longest": self.longest,
            "image_tokens": sum(fit.image_tokens for fit in self.fits),
            "images_shrunk": {"pairs": len(shrunk), "examples": _first({f.pair_id: f.max_pixels for f in shrunk})},
            "answers_cut": {
                "pairs": len(cut),
                "tokens": sum(fit.num_cut for fit in cut),
                "share_of_tokens": sum(fit.num_cut for fit in cut) / answer_tokens if answer_tokens else 0.0,
                "examples": _first({fit.pair_id: fit.num_cut for fit in cut}),
            },
            "set_aside": {
                "pairs": len(self.set_aside),
                "reasons": dict(Counter(error.reason for _, error in self.set_aside)),
                "examples": _first({pair.id: str(error) for pair, error in self.set_aside}),
            },
        }

    def describe(self) -> str:
        """One line for the terminal; empty when nothing was changed."""
        report = self.report()
        parts = []
        if shrunk := report["images_shrunk"]["pairs"]:
            parts.append(f"{shrunk} pairs get smaller images")
        if cut := report["answers_cut"]["pairs"]:
            parts.append(
                f"{cut} pairs have cut answers ({report['answers_cut']['share_of_tokens']:.2%} of answer tokens)"
            )
        aside: dict[str, list[str]] = {}
        for pair, error in self.set_aside:
            aside.setdefault(error.reason, []).append(repr(pair.id))
        if aside:
            named = ((reason, len(ids), list(dict.fromkeys(ids))) for reason, ids in sorted(aside.items()))
            reasons = (
                f"{count} {reason} ({', '.join(ids[:2])}{', ...' * (len(ids) > 2)})" for reason, count, ids in named
            )
            parts.append(f"set aside: {', '.join(reasons)}")
        return "; ".join(parts)


def plan_fit(
    pairs: Sequence[PreferencePair],
    encoder: PairEncoder,
    image_size: ImageSize,
    video_shape: ShapeOfVideo | None = None,
    *,
    shrink_images: bool = False,
    one_colour: OneColour | None = None,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> FitPlan:
    """Measure every pair once.

    Args:
        encoder: its ``max_length`` is the limit; without one, only pairs that cannot be encoded at all are set aside.
        image_size: from ``data.images.ImageLoader.size``.
        video_shape: from ``data.videos.VideoLoader.shape``; needed by pairs with videos.
        shrink_images: whether a pair that is too long may get a smaller pixel budget of its images and frames, down to
            ``min_pixels``; the other pairs of its prompt get the same.
        one_colour: from ``data.images.ImageLoader.has_one_colour``: given, a pair whose other image would be its own
            once more, because that has one colour, is set aside here, and not found when it comes.
        num_workers: processes that help; 0 does the work here.
        progress: called with the number of pairs done, now and then.
    """
    measure = _Measure(encoder, image_size, video_shape, shrink_images, one_colour)
    found = []
    for number, fit in enumerate(_measured(pairs, measure, num_workers), start=1):
        found.append(fit)
        if progress is not None and (number % 256 == 0 or number == len(pairs)):
            progress(number)
    plan = FitPlan()
    for pair, fit in zip(pairs, _alike(pairs, found, measure), strict=True):
        if isinstance(fit, EncodeError):
            plan.set_aside.append((pair, fit))
        else:
            plan.pairs.append(pair)
            plan.fits.append(fit)
    return plan


@dataclass(frozen=True, slots=True)
class _Measure:
    encoder: PairEncoder
    image_size: ImageSize
    video_shape: ShapeOfVideo | None
    shrink_images: bool
    one_colour: OneColour | None

    def __call__(self, pair: PreferencePair, max_pixels: int | None = None) -> Fit | EncodeError:
        """How the pair fits, or why it does not; with this pixel budget, or the largest with which it fits."""
        try:
            return self._fit(pair, max_pixels)
        except EncodeError as err:
            return err
        except DataError as err:  # an image or video that is missing, none, or outside the root
            return EncodeError(f"'{pair.id}' {err}", row_id=pair.id, reason=getattr(err, "reason", "image"))

    def _fit(self, pair: PreferencePair, budget: int | None) -> Fit:
        encoder = self.encoder
        text = encoder.encode_text(pair)
        sides = [pair.images] if pair.has_same_images else [pair.images, pair.rejected_images or ()]
        sizes = [[self.image_size(image) for image in images] for images in sides]
        if pair.videos and self.video_shape is None:
            raise fault(pair.id, "video", "has a video, and nothing that knows the shapes of videos was given")
        shapes = [] if self.video_shape is None else [self.video_shape(video) for video in pair.videos]
        lengths = [encoder.prompt_length(pair, text, side, shapes, max_pixels=budget) for side in sizes]
        answers = tuple(map(len, text.answers))
        limit = encoder.max_length
        may_shrink = self.shrink_images and encoder.family.has_pixel_budget and (any(sizes) or shapes)
        if limit is not None and may_shrink and budget is None:
            want = max(total for total, _ in lengths) + max(answers)
            if want > limit:
                budget = self._budget(pair, text, sizes, shapes, limit - max(answers))
                lengths = [encoder.prompt_length(pair, text, side, shapes, max_pixels=budget) for side in sizes]
        total, of_images = max(lengths)
        space = encoder.answer_space(pair.id, total, of_images, counts=(len(pair.images), len(pair.videos)))
        if len(text.answers) > 1 and pair.has_same_images:
            encoder.refuse_identical(pair.id, text.answers, space)
        weighting = encoder.token_weights
        if weighting is not None and (weighting.may_leave_nothing or len(text.answers) < 2):
            encoder.weights(pair, text, space)
        prompts = tuple(PromptLength(*length) for length in lengths)
        other = self._has_other(pair, sizes[0])
        return Fit(pair_id=pair.id, prompts=prompts, answers=answers, space=space, max_pixels=budget, other=other)

    def _has_other(self, pair: PreferencePair, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether the pair has another image; one in the place of each image, of the same size.

        Raises:
            EncodeError: one that is given has another size, or is missing; one that is made would be the first one.
        """
        settings = self.encoder.other_image
        if settings is None or not pair.images:
            return False
        for other, size in zip(other_refs(pair, settings), sizes, strict=True):
            if settings.source != "made":
                refuse_other_size(pair.id, other, self.image_size(other), size, settings)
            elif settings.repeats_one_colour and self.one_colour is not None and self.one_colour(other):
                raise same_again(pair.id, other, settings)
        return True

    def _budget(
        self,
        pair: PreferencePair,
        text: Turns,
        sizes: Sequence[Sequence[tuple[int, int]]],
        shapes: Sequence[VideoShape],
        want: int,
    ) -> int:
        """The largest pixel budget of one image or frame with which every side's prompt has at most ``want`` tokens,
        or the smallest allowed one."""

        def longest(budget: int) -> int:
            return max(self.encoder.prompt_length(pair, text, side, shapes, max_pixels=budget)[0] for side in sizes)

        low = self.encoder.images.lowest_max_pixels()
        # the most that leaves all as it is: of frames it may be more than of images
        high = self.encoder.images.highest_max_pixels()
        high = max(high, self.encoder.videos.highest_max_pixels()) if shapes else high
        if longest(low) > want:
            return low
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if longest(middle) <= want else (low, middle)
        return low


def _alike(
    pairs: Sequence[PreferencePair], found: Sequence[Fit | EncodeError], measure: _Measure
) -> Iterator[Fit | EncodeError]:
    """What was found, with the smallest pixel budget of any pair of a prompt for all of its pairs.

    Whether pairs are grouped makes no difference (``train.group_pairs``): the same pair shows the same images.
    """
    least: dict[PromptKey, int] = {}
    for pair, fit in zip(pairs, found, strict=True):
        if isinstance(fit, Fit) and fit.max_pixels is not None:
            key = pair.prompt_key
            least[key] = min(fit.max_pixels, least.get(key, fit.max_pixels))
    chat = measure.encoder.chat
    counted, chat.spelt = chat.spelt, SpeltOut()  # the texts were counted when they were measured first
    for pair, fit in zip(pairs, found, strict=True):
        budget = least.get(pair.prompt_key) if least and isinstance(fit, Fit) else None
        yield fit if budget is None or fit.max_pixels == budget else measure(pair, budget)  # type: ignore[union-attr]
    chat.spelt = counted


class _Items(Dataset[Any]):
    def __init__(self, pairs: Sequence[PreferencePair], measure: _Measure) -> None:
        self.pairs, self.measure = pairs, measure

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Fit | EncodeError, dict[str, str], SpeltOut]:
        """What was found, what the encoder of this process has to say, and what it counted for this pair."""
        chat = self.measure.encoder.chat
        chat.spelt = SpeltOut()
        return self.measure(self.pairs[index]), dict(chat.writer.notes), chat.spelt


def _measured(pairs: Sequence[PreferencePair], measure: _Measure, num_workers: int) -> Iterator[Fit | EncodeError]:
    if num_workers == 0 or len(pairs) < 64 * num_workers:  # a process takes longer to start than these take here
        yield from map(measure, pairs)
        return
    for pair in pairs[:PROVED_IN_FULL]:  # here as well: what stops the run stops it before any worker starts
        measure(pair)
    loader: Iterable[list[tuple[Fit | EncodeError, dict[str, str], SpeltOut]]] = DataLoader(
        _Items(pairs, measure),
        batch_size=32,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # the run's own random state is not touched
        worker_init_fn=begin_loader_worker,
    )
    chat, number = measure.encoder.chat, 0
    for batch in loader:
        for fit, found, spelt in batch:
            for kind, note in found.items():
                chat.writer.findings.note(kind, note)
            if number >= PROVED_IN_FULL:  # those before were counted here
                chat.spelt.merge(spelt)
            number += 1
            yield fit


def _first(items: Mapping[str, Any]) -> dict[str, Any]:
    return dict(list(items.items())[:EXAMPLES])
