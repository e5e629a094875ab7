"""Weights in four or eight bits. The only module that imports bitsandbytes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from mmpref.errors import ConfigError
from mmpref.models.experts import describe_experts
from mmpref.processing.family import Family

logger = logging.getLogger(__name__)
_told: set[str] = set()
Quantization = Literal["nf4", "fp4", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSettings:
    """How the language model's linear layers are stored.

    Args:
        kind: ``nf4`` and ``fp4`` take 4 bits a weight (QLoRA, arXiv 2305.14314), ``int8`` 8 (LLM.int8, 2208.07339).
        double_quant: quantise the scales of 4-bit blocks as well, which saves about 0.37 bit a weight.
        sharded: keep 4-bit weights in tensors of the model's own dtype, which FSDP can divide; the bytes are the same.
        compute_dtype: what 4-bit layers compute in; ``auto`` takes the model's dtype, bfloat16 where that is auto too.
    """

    kind: Quantization
    double_quant: bool = True
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    sharded: bool = False


def quantization_config(
    settings: QuantizationSettings | Quantization, family: Family, *, dtype: Any = "auto"
) -> BitsAndBytesConfig:
    """Quantise the linear layers of the language model; vision tower, projector and output head stay as they are.

    So do the matrices of experts, which transformers keeps together in tensors that are no layers.

    The paths are written in full, and with the head: bitsandbytes matches from the start of a name, and a list of one's
    own replaces its default, which spares the head.

    Args:
        settings: or only their kind.
        family: says where tower, projector and whatever else is not language are.
        dtype: of the layers that are not quantised.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    _bitsandbytes()
    if isinstance(settings, str):
        settings = QuantizationSettings(kind=settings)
    skip = ["lm_head", *family.apart]
    if settings.kind == "int8":
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_once)  # it warns of a cast in every layer
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    own = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    compute = own if settings.compute_dtype == "auto" else getattr(torch, settings.compute_dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.kind,
        bnb_4bit_use_double_quant=settings.double_quant,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=own if settings.sharded else torch.uint8,
        llm_int8_skip_modules=skip,
    )


def _once(record: logging.LogRecord) -> bool:
    """Lets each message through once."""
    text = record.getMessage()
    is_new = text not in _told
    _told.add(text)
    return is_new


def after_quantized_load(model: nn.Module, family: Family) -> None:
    """Check what was quantised, and keep the weights in their plain layout.

    On CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit layer in place during the first eval pass, after which the
    layer gives no gradient: the next training step would learn nothing and say nothing.

    Raises:
        ConfigError: nothing was quantised, or something outside the language model was.
    """
    bnb = _bitsandbytes()
    quantized = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)
    ]
    wrong = [name for name, _ in quantized if family.part_of(name) != "language" or name.endswith("lm_head")]
    if wrong or not quantized:
        what = (
            f"layers that must stay whole were quantised ({', '.join(wrong[:3])})"
            if wrong
            else "no layer was quantised"
        )
        raise ConfigError(f"quantisation of a '{family.name}' model went wrong: {what}; use adapter.kind: lora instead")
    for _, module in quantized:
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    if note := describe_experts(model, adapter=False, adapted=False, packed=True):
        logger.warning(note)


def four_bit_trial() -> str:
    """Run one small 4-bit layer on the best device of this machine; says where and how far it is from its weights.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    bnb = _bitsandbytes()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = nn.Linear(64, 64, bias=False)
    packed = bnb.nn.Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    packed.load_state_dict(plain.state_dict())
    given = torch.ones(1, 64, device=device)
    with torch.no_grad():
        error = (packed.to(device)(given) - plain.to(device)(given)).abs().max()
    return f"NF4 runs on {device} (largest error of a trial layer {float(error):.2g})"


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as err:
        raise ConfigError("quantisation needs bitsandbytes: pip install 'mmpref[qlora]'") from err
    return bitsandbytes
