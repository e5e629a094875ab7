"""What a reward model in this process says of answers: one number for each conversation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpref.errors import ConfigError
from mmpref.generation.answer_likelihood import AnswerLikelihood
from mmpref.generation.model_source import ModelSource
from mmpref.generation.settings import AnswerSettings
from mmpref.records import EvalSample, ImageRef, PreferencePair

if TYPE_CHECKING:
    from mmpref.processing.encoded import EncodedPair
    from mmpref.processing.layout import LayoutName


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What was measured of one sample; ``value`` is None where there is none, and ``why`` and ``detail`` say the
    reason, in a word and in a sentence."""

    value: float | None = None
    why: str = ""
    detail: str = ""


class RewardModel(AnswerLikelihood):
    """Rewards of samples, whose ``target`` is (answer, None).

    The model reads the conversation as its chat template writes it, answer, end of turn and all that follows it
    included, and the number is that of the last token. Candidates of a prompt share it where the model has a value head
    and can; a classifier reads padded rows. What is in a batch beside an answer changes nothing but rounding.

    Args:
        source: a classifier of transformers, or a model that writes text with a value head (``models.reward_head``).
        settings: batches and device.
        label: which number of a head that has several; None for the only one.
        images_root: relative image paths start here.
        load_image: replaces the reader of images.

    Raises:
        ConfigError: neither form, code of the model's own, no chat template, a head of several numbers without a label.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: AnswerSettings | None = None,
        *,
        label: int | None = None,
        images_root: str | Path | None = None,
        load_image: Callable[[ImageRef], Any] | None = None,
    ) -> None:
        from mmpref.models.folder.kinds import is_classifier
        from mmpref.models.load import load_config
        from mmpref.models.reward_head import find_value_head

        source = source.resolved()
        config = load_config(source.path, classifier=True)
        self._label = label or 0
        self._head = None
        if is_classifier(config):
            source = replace(source, classifier=True)
            if source.adapter is not None or source.quantization is not None:
                raise ConfigError(
                    f"{source.path} is a classifier, which is loaded whole: leave the quantization out, and merge an "
                    "adapter into it with peft first"
                )
            _refuse_label(label, config.num_labels, source.path, dict(config.id2label or {}))
        else:
            self._head = find_value_head([*([source.adapter] if source.adapter else []), source.path])
            if self._head is None:
                raise ConfigError(_no_head(source.path, config))
            _refuse_label(label, len(self._head.bias), source.path, {})
        super().__init__(source, settings, images_root=images_root, load_image=load_image)

    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        import torch

        from mmpref.models.reward_head import check_value_head

        super()._prepare(template_kwargs)
        text: Any = self._model.config.get_text_config()
        if self._head is not None:
            check_value_head(self._head, self._model, self._loaded.path)
        elif text.pad_token_id is not None:
            self._collator.pad_token_id = text.pad_token_id  # what its forward takes for padding
        self._after = torch.tensor(self._collator.encoder.chat.after_answer(), dtype=torch.long)
        self._longest: int | None = getattr(text, "max_position_embeddings", None)

    def rewards(self, samples: Sequence[EvalSample]) -> Iterator[tuple[str, Reward]]:
        """Id and reward of each sample, as their batches are done."""
        for answer in self.answer(samples):
            yield answer.id, Reward(**json.loads(answer.text))

    def _layout(self) -> LayoutName:
        return super()._layout() if self._head is not None else "plain"

    def _encode(self, group: Sequence[PreferencePair]) -> list[EncodedPair]:
        found = []
        for pair in super()._encode(group):
            # one token ends the turn; the template's own end is put in its place
            pair = replace(pair, chosen_ids=_joined(pair.chosen_ids[:-1], self._after))
            length = len(pair.prompt) + len(pair.chosen_ids)
            if self._longest is not None and length > self._longest:
                detail = f"'{pair.pair_id}' has {length} tokens, and the model reads {self._longest}"
                self._refuse(pair.pair_id, "too_long", detail)
            else:
                found.append(pair)
        return found

    def _logps(self, pairs: Sequence[EncodedPair]) -> list[dict[str, Any]]:
        import torch

        from mmpref.models.reward_head import class_logits, values

        [batch] = self._collator.changed(need_rejected=False).rows_of(pairs)
        batch = batch.to(self._model.device)
        with torch.inference_mode():
            head = self._head
            found = class_logits(self._model, batch) if head is None else values(self._model, batch, head)
        return [{"value": value} for value in found[:, self._label].tolist()]


def _joined(answer: Any, after: Any) -> Any:
    import torch

    return torch.cat([answer, after])


def _refuse_label(label: int | None, count: int, path: str, names: Mapping[Any, Any]) -> None:
    if label is None and count != 1:
        shown = ", ".join(f"{number} ({name})" for number, name in list(names.items())[:8]) or f"0 to {count - 1}"
        raise ConfigError(f"{path} gives {count} numbers of an answer; choose one with the option label: {shown}")
    if label is not None and not 0 <= label < count:
        raise ConfigError(f"{path} gives {count} numbers of an answer, and label {label} is none of 0 to {count - 1}")


def _no_head(path: str, config: Any) -> str:
    built = ", ".join(map(str, getattr(config, "architectures", None) or ())) or "of no named class"
    own = (
        "; its config.json asks for code of its own (auto_map), and mmpref runs no code of models"
        if getattr(config, "auto_map", None)
        else ""
    )
    return (
        f"{path} ({built}) is no reward model that is read here: neither a ...ForSequenceClassification nor a model "
        f"with a value head (v_head.summary.weight, in value_head.safetensors or among its weights){own}. A model that "
        "writes its verdict is the scorer judge's"
    )
