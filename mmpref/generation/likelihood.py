"""Log-probs instead of answers: how likely a model finds both sides of a held-out preference pair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmpref.generation.local_model import LocalAnswerer, in_eval_mode
from mmpref.records import Answer, EvalSample, PreferencePair

if TYPE_CHECKING:
    from mmpref.processing.encoded import EncodedPair

_BATCHES_PER_WINDOW = 8  # encoded at once and sorted by length


class LikelihoodAnswerer(LocalAnswerer):
    """Answers a sample, whose ``target`` is (chosen, rejected), with JSON: sums of log-probs and token counts of both.

    A model with an adapter also gives them without it (``ref_chosen``, ``ref_rejected``), which makes the implicit
    reward of DPO. A beginning that both answers continue (``response_prefix`` in ``meta``) is given and not counted;
    ``rejected_images`` there are what the rejected answer is about. Answers that are longer than the model's window are
    an error of the model, not cut.

    Both sides of a pair count as rows of a batch. The settings of decoding have no meaning here.
    """

    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        from mmpref.models.adapters.weights import has_adapter
        from mmpref.models.logps.layout_choice import choose_layout
        from mmpref.models.logps.reference import choose_reference
        from mmpref.processing.encode import PairEncoder

        self._model, family = self._loaded.model, self._loaded.family
        self._reference = choose_reference(self._model, kind="adapter_off") if has_adapter(self._model) else None
        self._encoder = PairEncoder(self._loaded.processor, family, template_kwargs=template_kwargs)
        self._layout = choose_layout(self._model, family).name

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """Log-probs as their batches are done."""
        window = self._batches.size * _BATCHES_PER_WINDOW
        with in_eval_mode(self._model):
            for start in range(0, len(samples), window):
                yield from self._answer_window(samples[start : start + window])

    def _answer_window(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        answered = self._batches.run(
            sorted((self._encode(sample) for sample in samples), key=lambda pair: -_length(pair)),
            tokens_of=lambda pair: 2 * _length(pair),
            work=lambda batch: self._logps(batch),
            too_large=lambda pair: (
                f"no memory for pair '{pair.pair_id}' alone ({_length(pair)} tokens); use a smaller model, smaller "
                "images or quantization"
            ),
        )
        for pair, row in answered:
            yield Answer(id=pair.pair_id, text=json.dumps(row))

    def _encode(self, sample: EvalSample) -> EncodedPair:
        chosen, rejected = sample.target
        pair = PreferencePair(
            id=sample.id,
            images=sample.images,
            prompt=sample.prompt,
            chosen=chosen,
            rejected=rejected,
            response_prefix=sample.meta.get("response_prefix", ""),
            rejected_images=sample.meta.get("rejected_images"),
            template_kwargs=sample.meta.get("template_kwargs"),
        )
        return self._encoder.encode(pair, self._load_image)

    def _logps(self, pairs: Sequence[EncodedPair]) -> list[dict[str, float]]:
        import torch

        from mmpref.models.logps.pair_logps import pair_logps
        from mmpref.processing.collate import collate_pairs

        chat = self._encoder.chat
        batch = collate_pairs(pairs, chat.pad_token_id, layout=self._layout, image_token_id=chat.image_token_id)
        with torch.inference_mode():
            found = pair_logps(self._model, batch.to(self._model.device), reference=self._reference)
        names = ("chosen", "rejected", "chosen_len", "rejected_len", "ref_chosen", "ref_rejected")
        columns = {name: value.tolist() for name in names if (value := getattr(found, name)) is not None}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _length(pair: EncodedPair) -> int:
    """Tokens of the longer side, prompt included."""
    answers = [len(pair.chosen_ids), len(pair.rejected_ids) if pair.rejected_ids is not None else 0]
    return len(pair.prompt) + max(answers)
