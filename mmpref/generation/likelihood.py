"""Log-probs instead of answers: how likely a model finds both sides of a held-out preference pair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmpref.generation.local_model import LocalAnswerer, in_eval_mode
from mmpref.records import Answer, EvalSample, PreferencePair, PromptKey

if TYPE_CHECKING:
    from mmpref.processing.encoded import EncodedPair
    from mmpref.processing.layout import LayoutName

_BATCHES_PER_WINDOW = 8  # encoded at once and sorted by length


@dataclass(frozen=True, slots=True)
class _Asked:
    """One pair, and of the pairs of its prompt the number and the tokens of the longest side, prompt included."""

    pair: EncodedPair
    group: int
    longest: int


class LikelihoodAnswerer(LocalAnswerer):
    """Answers a sample, whose ``target`` is (chosen, rejected), with JSON: sums of log-probs and token counts of both.

    A model with an adapter also gives them without it (``ref_chosen``, ``ref_rejected``), which makes the implicit
    reward of DPO. A beginning that both answers continue (``response_prefix`` in ``meta``) is given and not counted;
    ``rejected_images`` there are what the rejected answer is about. Answers that are longer than the model's window are
    an error of the model, not cut.

    Pairs of one prompt run together, wherever they stand among the samples, and an answer that is in several of them
    runs once. Both sides of a pair count as rows of a batch. The settings of decoding have no meaning here.
    """

    _with_reference = True
    _pixel_cache_bytes = 0

    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        from mmpref.models.adapters.weights import has_adapter
        from mmpref.models.logps.reference import choose_reference
        from mmpref.processing.collate import PairCollator
        from mmpref.processing.encode import PairEncoder
        from mmpref.processing.pixels import ImageSettings

        self._model, family = self._loaded.model, self._loaded.family
        has_reference = self._with_reference and has_adapter(self._model)
        self._reference = choose_reference(self._model, kind="adapter_off") if has_reference else None
        encoder = PairEncoder(
            self._loaded.processor,
            family,
            images=ImageSettings(cache_bytes=self._pixel_cache_bytes),
            template_kwargs=template_kwargs,
        )
        self._collator = PairCollator(encoder, self._load_image, layout=self._layout())

    def _layout(self) -> LayoutName:
        from mmpref.models.logps.layout_choice import choose_layout

        return choose_layout(self._model, self._loaded.family).name

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """Log-probs as their batches are done."""
        groups: dict[PromptKey, list[PreferencePair]] = {}
        for sample in samples:
            pair = _pair_of(sample)
            groups.setdefault(pair.prompt_key, []).append(pair)
        with in_eval_mode(self._model):
            for window in _windows(list(groups.values()), self._batches.size * _BATCHES_PER_WINDOW):
                yield from self._answer_window(window)

    def _answer_window(self, window: Sequence[Sequence[PreferencePair]]) -> Iterator[Answer]:
        answered = self._batches.run(
            sorted(self._encoded(window), key=lambda asked: (-asked.longest, asked.group)),
            tokens_of=lambda asked: asked.longest * (1 if asked.pair.rejected_ids is None else 2),
            work=lambda batch: self._logps([asked.pair for asked in batch]),
            too_large=lambda asked: (
                f"no memory for pair '{asked.pair.pair_id}' alone ({_length(asked.pair)} tokens); use a smaller model, "
                "smaller images or quantization"
            ),
            group_of=lambda asked: asked.group,
        )
        for asked, row in answered:
            yield Answer(id=asked.pair.pair_id, text=json.dumps(row))

    def _encoded(self, window: Sequence[Sequence[PreferencePair]]) -> Iterator[_Asked]:
        for number, group in enumerate(window):
            pairs = self._encode(group)
            longest = max(map(_length, pairs), default=0)
            yield from (_Asked(pair, number, longest) for pair in pairs)

    def _encode(self, group: Sequence[PreferencePair]) -> list[EncodedPair]:
        """Pairs of one prompt as tensors, without those that are left out."""
        return self._collator.encoded(group)

    def _logps(self, pairs: Sequence[EncodedPair]) -> list[dict[str, Any]]:
        import torch

        from mmpref.models.logps.pair_logps import pair_logps

        [batch] = self._collator.changed(need_rejected=pairs[0].rejected_ids is not None).rows_of(pairs)
        with torch.inference_mode():
            found = pair_logps(self._model, batch.to(self._model.device), reference=self._reference)
        names = ("chosen", "rejected", "chosen_len", "rejected_len", "ref_chosen", "ref_rejected")
        columns = {name: value.tolist() for name in names if (value := getattr(found, name)) is not None}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _pair_of(sample: EvalSample) -> PreferencePair:
    chosen, rejected = sample.target
    return PreferencePair(
        id=sample.id,
        images=sample.images,
        prompt=sample.prompt,
        chosen=chosen,
        rejected=rejected,
        response_prefix=sample.meta.get("response_prefix", ""),
        rejected_images=sample.meta.get("rejected_images"),
        template_kwargs=sample.meta.get("template_kwargs"),
    )


def _windows(groups: Sequence[list[PreferencePair]], size: int) -> Iterator[list[list[PreferencePair]]]:
    """The groups in portions of about ``size`` pairs."""
    window: list[list[PreferencePair]] = []
    for group in groups:
        if window and sum(map(len, window)) + len(group) > size:
            yield window
            window = []
        window.append(group)
    if window:
        yield window


def _length(pair: EncodedPair) -> int:
    """Tokens of the longer side, prompt included."""
    answers = [len(pair.chosen_ids), len(pair.rejected_ids) if pair.rejected_ids is not None else 0]
    return len(pair.prompt) + max(answers)
