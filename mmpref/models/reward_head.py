"""Reward models: a decoder with a number for each conversation, read at its last token.

Two forms are read. *A classifier* of transformers (``...ForSequenceClassification``), whose own forward picks the last
token that is not padding. *A value head* beside a model that writes text: a linear layer on the last hidden state, in a
file ``value_head.safetensors`` or among the model's weights, under the names that TRL's
``AutoModelForCausalLMWithValueHead`` gives it (``v_head.summary.weight`` and ``.bias``). Skywork-VL-Reward is of this
form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmpref.errors import ConfigError, library_errors
from mmpref.models.folder.contents import AGAIN, read_object
from mmpref.models.logps.answer_logps import inputs_of, running
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch

_FILE = "value_head.safetensors"
_PICKLED = "value_head.bin"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_WEIGHT, _BIAS = "v_head.summary.weight", "v_head.summary.bias"


@dataclass(frozen=True, slots=True)
class ValueHead:
    """A linear layer, in float32."""

    weight: Tensor  # [C, H]
    bias: Tensor  # [C]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Values [B, C] of last hidden states [B, H]."""
        device = hidden.device
        return nn.functional.linear(hidden.float(), self.weight.to(device), self.bias.to(device))


def find_value_head(places: Iterable[str | Path]) -> ValueHead | None:
    """The value head of the first of these folders or hub ids that has one; None where none has.

    Raises:
        ConfigError: a file that cannot be read, or a head of another shape.
    """
    for place in places:
        if (file := _file_of(place, _FILE)) is not None:
            found = _read(file)
            if found is None:
                raise ConfigError(f"{file} holds no {_WEIGHT}: it is no value head that is known here")
            return found
        if Path(place).is_dir() and (Path(place) / _PICKLED).exists():
            raise ConfigError(
                f"the value head of {place} is a pickle file ({_PICKLED}), which can run code when it is read: convert "
                f"it to {_FILE} where you trust it"
            )
        if (index := _file_of(place, _INDEX)) is not None:
            names = read_object(index).get("weight_map")
            shard = names.get(_WEIGHT) if isinstance(names, dict) else None
            file = _file_of(place, shard) if isinstance(shard, str) and Path(shard).name == shard else None
        elif Path(place).is_dir():  # of a hub id without an index, all weights would be fetched to look
            file = _file_of(place, _WEIGHTS)
        if file is not None and (found := _read(file)) is not None:
            return found
    return None


def check_value_head(head: ValueHead, model: nn.Module, path: str) -> None:
    """Refuse a head that is not of this model.

    Raises:
        ConfigError: it takes other hidden states.
    """
    inner = base_model(model)
    width = inner.config.get_text_config().hidden_size  # type: ignore[union-attr, operator]
    if head.weight.shape[1] != width:
        raise ConfigError(
            f"the value head of {path} takes hidden states of {head.weight.shape[1]}, and the model has {width}: they "
            "are not of one model"
        )


def last_places(batch: PairBatch) -> Tensor:
    """Of each pair of one answer the place of its last token in the batch's N * T tokens: [B].

    Raises:
        ValueError: a batch with rejected answers, or one made by hand.
    """
    if batch.pair_tokens is None or batch.has_rejected:
        raise ValueError("want a batch of single answers, as a collator makes it")
    places, pairs = batch.pair_tokens
    ends = torch.cat([pairs[1:] != pairs[:-1], pairs.new_ones(1, dtype=torch.bool)])
    found: Tensor = places[ends]
    return found


def values(model: nn.Module, batch: PairBatch, head: ValueHead) -> Tensor:
    """What a value head gives at the last token of each answer: [B, C] float32.

    The hidden state is what the model's output head is given; of its logits, none but one place's are made.
    """
    output = base_model(model).get_output_embeddings()  # type: ignore[operator]
    places = last_places(batch)
    found: list[Tensor] = []

    def pick(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = given
        found.append(hidden.reshape(-1, hidden.shape[-1])[places])
        return (hidden[:1, :1], *rest)

    with running(model, batch), output.register_forward_pre_hook(pick):
        model(**inputs_of(model, batch))
    return head(found[-1])


def class_logits(model: nn.Module, batch: PairBatch) -> Tensor:
    """What a classifier gives of each answer: [B, C] float32. The batch is in the plain layout.

    Its forward looks for the last token that is not ``pad_token_id`` of its config. Where that is not set, padding gets
    the id of a token that the batch does not hold, so that rows of several lengths can run together.
    """
    rows = last_places(batch) // batch.input_ids.shape[1]
    inputs, inner = inputs_of(model, batch), base_model(model)
    config = inner.config.get_text_config()  # type: ignore[union-attr, operator]
    before, mask = config.pad_token_id, batch.attention_mask
    if before is None and mask is not None:
        free = _unused_id(batch.input_ids[mask.bool()], config.vocab_size)
        inputs["input_ids"] = batch.input_ids.masked_fill(~mask.bool(), free)
        config.pad_token_id = free
    try:
        with running(model, batch):
            logits: Tensor = model(**inputs).logits
    finally:
        config.pad_token_id = before
    return logits.float()[rows]


def _unused_id(ids: Tensor, vocab_size: int) -> int:
    """The first token that is none of these."""
    used = torch.zeros(vocab_size, dtype=torch.bool, device=ids.device)
    used[ids] = True
    if bool(used.all()):
        raise ConfigError("a batch holds every token there is, and pad_token_id of config.json is not set; set it")
    return int((~used).nonzero()[0])


def _file_of(place: str | Path, name: str) -> Path | None:
    """A file of a folder, or of a hub id; None where it has none of this name."""
    if Path(place).is_dir():
        file = Path(place) / name
        return file if file.is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(place), name))
    except (OSError, ValueError):  # it has none; a model that cannot be had at all is explained when it loads
        return None


def _read(file: Path) -> ValueHead | None:
    with library_errors(ConfigError, f"{file} cannot be read", AGAIN), safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
        if _WEIGHT not in names:
            return None
        weight = stored.get_tensor(_WEIGHT).float()
        bias = stored.get_tensor(_BIAS).float() if _BIAS in names else None
    if weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ConfigError(f"{file}: {_WEIGHT} is {list(weight.shape)}, and a matrix with its bias is expected; {AGAIN}")
    return ValueHead(weight, torch.zeros(weight.shape[0]) if bias is None else bias)
