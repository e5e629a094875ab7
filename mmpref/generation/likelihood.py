"""Log-probs instead of answers: how likely a model finds both sides of a held-out preference pair."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpref.errors import OutOfMemoryError
from mmpref.generation.in_process import BATCH_SIZE, TOKENS_PER_BATCH, ModelSource
from mmpref.records import Answer, EvalSample, ImageRef, PreferencePair

if TYPE_CHECKING:
    from mmpref.models.loaded import LoadedModel
    from mmpref.processing.encoded import EncodedPair

_BATCHES_PER_WINDOW = 8


class LikelihoodAnswerer:
    """Answers a sample, whose ``target`` is (chosen, rejected), with JSON: sums of log-probs and token counts of both.

    A model with an adapter also tells them without it (``ref_chosen``, ``ref_rejected``), which makes the implicit
    reward of DPO. A beginning that both answers continue (``response_prefix`` in ``meta``) is given and not counted;
    ``rejected_images`` there are what the rejected answer is about. Answers that are longer than the model's window are
    an error of the model, not cut.

    Args:
        model, images_root, load_image, batch_size, tokens_per_batch, device, cpu_threads: as ``TransformersAnswerer``
            has them; both sides of a pair count as rows of a batch.
        max_new_tokens, num_beams: of no use here.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel | ModelSource,
        *,
        images_root: str | Path | None = None,
        load_image: Callable[[ImageRef], Any] | None = None,
        batch_size: int = BATCH_SIZE,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        max_new_tokens: int = 1,
        num_beams: int = 1,
        device: str | None = None,
        cpu_threads: int | None = None,
    ) -> None:
        import torch

        from mmpref.data.images.loader import ImageLoader
        from mmpref.models.adapters.weights import has_adapter
        from mmpref.models.logps.layout_choice import choose_layout
        from mmpref.models.logps.reference import choose_reference
        from mmpref.processing.encode import PairEncoder

        if cpu_threads is not None:
            torch.set_num_threads(cpu_threads)
        if isinstance(model, str | Path):
            model = ModelSource(path=str(model))
        kwargs = None
        if isinstance(model, ModelSource):
            kwargs = model.template_kwargs
            model = model.load(device or ("cuda" if torch.cuda.is_available() else None))
        self._model = model.model
        self._reference = choose_reference(model.model, kind="adapter_off") if has_adapter(model.model) else None
        self._encoder = PairEncoder(model.processor, model.family, template_kwargs=kwargs)
        self._layout = choose_layout(model.model, model.family).name
        self._load_image = load_image if load_image is not None else ImageLoader(images_root).open
        self._batch_size = batch_size
        self._tokens_per_batch = tokens_per_batch

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        was_training = self._model.training
        self._model.eval()
        window = self._batch_size * _BATCHES_PER_WINDOW
        try:
            for start in range(0, len(samples), window):
                yield from self._answer_window(samples[start : start + window])
        finally:
            self._model.train(was_training)

    def _answer_window(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        import torch

        waiting = sorted((self._encode(sample) for sample in samples), key=lambda pair: -_length(pair))
        while waiting:
            fitting = self._tokens_per_batch // (2 * _length(waiting[0]))
            batch = waiting[: max(1, min(self._batch_size, fitting))]
            rows: list[dict[str, float]] | None = None
            try:
                rows = self._logps(batch)
            except torch.OutOfMemoryError as err:
                if len(batch) == 1:
                    raise OutOfMemoryError(
                        f"no memory for pair '{batch[0].pair_id}' alone ({_length(batch[0])} tokens); use a smaller "
                        "model, smaller images or quantization"
                    ) from err
            if rows is None:
                torch.cuda.empty_cache()
                self._batch_size = len(batch) // 2
                continue
            waiting = waiting[len(batch) :]
            for pair, row in zip(batch, rows, strict=True):
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
