"""Model folders as the hub has them, of any type: small random weights, a tokenizer trained here, no download."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from tests import tiny_vlms

Writer = Callable[[Path], Any]
"""Writes one model folder; may raise :class:`NotBuiltError`."""

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
TOWER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


class NotBuiltError(Exception):
    """A folder of this type cannot be made on this machine; the message says why."""


def class_of(name: str) -> Any:
    """A class of transformers.

    Raises:
        NotBuiltError: this release does not have it.
    """
    found = getattr(tf, name, None)
    if found is None:
        raise NotBuiltError(f"transformers {tf.__version__} has no {name}")
    return found


def chat_template(turns: Mapping[str, tuple[str, str]], *, image: str, ask: str, bos: str = "") -> str:
    """A chat template whose content is a list of parts, or a string.

    Args:
        turns: role -> what is written before and after its content.
        image: what stands for an image, where it stands in the conversation.
        ask: what is written to ask for an answer.
        bos: what is written first.
    """
    roles = "".join(
        f"{{% {'elif' if n else 'if'} message['role'] == '{role}' %}}{before}{{{{ content }}}}{after}"
        for n, (role, (before, after)) in enumerate(turns.items())
    )
    return (
        f"{bos}{{% for message in messages %}}{{% set content %}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}"
        f"{{% endif %}}{{% endset %}}{roles}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{ask}{{% endif %}}"
    )


def make_tokenizer(
    named: dict[str, str] | None = None,
    *,
    image_markup: str = "",
    template: str = tiny_vlms.CHATML,
    unnamed: tuple[str, ...] = (),
    eos_token: str | None = None,
    add_bos: bool = False,
) -> Any:
    """As :func:`tests.tiny_vlms.make_tokenizer`, with another end of turn."""
    made = tiny_vlms.make_tokenizer(named, image_markup=image_markup, unnamed=unnamed, add_bos=add_bos)
    if template != tiny_vlms.CHATML:
        made.chat_template = template
    if eos_token is not None:
        made.eos_token = eos_token
    return made


def ids_of(tokenizer: Any) -> dict[str, Any]:
    """What the config of a language model says of its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def image_class(name: str) -> Any:
    """An image processor of transformers that works with Pillow alone: ``Clip`` -> ``ClipImageProcessorPil``.

    Raises:
        NotBuiltError: this release has none that can be used here.
    """
    found = getattr(tf, f"{name}ImageProcessorPil", None) or getattr(tf, f"{name}ImageProcessor", None)
    if found is None or hasattr(found, "_backends"):
        raise NotBuiltError(f"{name}ImageProcessor needs torchvision in transformers {tf.__version__}")
    return found


def write_folder(
    folder: Path,
    model: tf.PreTrainedModel,
    tokenizer: Any,
    images: Any = None,
    *,
    processor: str | None = None,
    settings: dict[str, Any] | None = None,
    scale: float = 0.08,
    tower_scale: float | None = None,
) -> Path:
    """One model folder, in the layout that most have: the parts of the processor in files of their own.

    Args:
        images: the image processor; None for a text model.
        processor: name of the processor's class, with which the parts are found.
        settings: of the processor beside its parts (``patch_size`` and the like).
        scale: standard deviation of all matrices, so that attention and images matter to the output.
        tower_scale: of those of the vision tower, for deep ones of convolutions, through which less would not come.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=tower_scale if tower_scale and "vision_tower" in name else scale)
            elif not parameter.any() and not name.endswith("bias"):
                parameter.normal_(std=0.5)  # a gate that starts shut
            elif name.endswith("bias"):
                parameter.normal_(std=0.05)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if images is not None:
        images.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor, **(settings or {})}))
    return folder


__all__ = [
    "TEXT", "TOWER", "NotBuiltError", "Writer", "chat_template", "class_of", "ids_of", "image_class", "make_tokenizer",
    "write_folder",
]  # fmt: skip
