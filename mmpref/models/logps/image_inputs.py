"""What models find out about their images by reading it back from the device, given to them from the host instead.

A read waits until the device has done all it was asked for, and then the device waits for the host. Models of
transformers read the grids of Qwen's images (once a layer where attention is not flash), count image tokens to compare
them with the features (and write the count into the message of an error that does not come), and look for the places
of features by a mask. All of that is known when a batch is made.

Shapes: N rows, T tokens, M image tokens of all rows, H hidden size.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import vision_utils
from transformers.utils.generic import is_flash_attention_requested

from mmpref.errors import DataError, one_line
from mmpref.models.unwrap import base_model, submodule
from mmpref.processing.batch import PairBatch, to_device

_TOWERS = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
"""Model types whose tower (``model.visual``) takes what :func:`image_inputs` gives."""
_PLACED = _TOWERS | {"llava", "llava_next", "llava_onevision", "internvl", "gemma3", "paligemma"}
"""Model types that use the mask of image tokens to put features there, and for nothing else."""

TWO_MODELS = "its processor belongs to another model; use the config.json, the processor and the tokenizer of one model"
_MISFIT = "tokens do not match"
"""How models of transformers say that they have another number of features than of places for them."""

# module -> kind of features -> whether its own way was seen to give the same as ours; only then is it replaced
_AGREES: weakref.WeakKeyDictionary[nn.Module, dict[str, str]] = weakref.WeakKeyDictionary()


# ---- the grids of Qwen's towers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tower:
    """What the tower makes of a grid, as its config says it."""

    merge: int
    window: int | None
    patch: int
    side: int | None
    mode: str
    aligns_corners: bool
    is_flash: bool


def image_inputs(model: nn.Module, batch: PairBatch) -> dict[str, Any]:
    """Keyword arguments for the model, in place of and beside the batch's own; {} where the model takes none."""
    base: Any = base_model(model)
    tower: Any = submodule(base, "model.visual")
    grids = {"image": batch.image_grids, "video": batch.video_grids}
    if not any(grids.values()) or tower is None or getattr(base.config, "model_type", "") not in _TOWERS:
        return {}
    facts = _Tower(
        merge=tower.spatial_merge_size,
        window=getattr(tower, "window_size", None),
        patch=getattr(tower, "patch_size", 0),  # read for windows only
        side=getattr(tower, "num_grid_per_side", None),
        mode=getattr(tower, "interpolation_mode", "bilinear"),
        aligns_corners=getattr(tower, "interpolation_align_corners", True),
        is_flash=is_flash_attention_requested(tower.config),
    )
    found: dict[str, Any] = {}
    for kind, of_kind in grids.items():
        if of_kind:
            inputs = _of_grids(of_kind, facts, batch.input_ids.device)
            found.update({f"{kind}_{name}": value for name, value in inputs.items()})
    return found


@functools.lru_cache(maxsize=8)  # policy and reference ask for the same; 64 bytes a patch on the device
@torch.inference_mode(False)  # kept for steps that have gradients
def _of_grids(grids: tuple[tuple[int, ...], ...], tower: _Tower, device: torch.device) -> Mapping[str, Any]:
    grid = torch.tensor(grids, dtype=torch.long)
    found: dict[str, Any] = {"position_ids": vision_utils.get_vision_position_ids(grid, tower.merge)}
    lengths = {"": vision_utils.get_vision_cu_seqlens(grid)}
    if tower.window is not None:
        found["window_index"], lengths["window_"] = vision_utils.get_vision_window_index(
            grid, spatial_merge_size=tower.merge, window_size=tower.window, patch_size=tower.patch
        )
    if tower.side is not None:
        found["interp_indices"], found["interp_weights"] = vision_utils.get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=tower.side,
            mode=tower.mode,
            align_corners=tower.aligns_corners,
            spatial_merge_size=tower.merge,
        )
    found = {name: to_device(value, device) for name, value in found.items()}
    for kind, ends in lengths.items():
        # flash-attn reads them on the device and the longest on the host; the others split by them on the host
        found[f"cu_{kind}seqlens"] = to_device(ends, device) if tower.is_flash else ends
        if tower.is_flash:
            found[f"max_{kind}seqlen"] = int((ends[1:] - ends[:-1]).max())
    return {"grid_thw": grid, **found}


def as_lists(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the model, with lists of numbers where it takes lists (Unlimited-OCR)."""
    asked = inspect.signature(base_model(model).forward).parameters
    lists = {name for name in inputs if name in asked and str(asked[name].annotation).startswith("list[")}
    return {name: value.tolist() if name in lists else value for name, value in inputs.items()}


# ---- the places of image features --------------------------------------------------------------------------------


class _Places:
    """Used in place of the mask of image tokens, [N, T, 1]: features are copied to places that are known."""

    def __init__(self, mask: Tensor, places: Tensor) -> None:
        self.mask = mask
        self.places = places

    def __getitem__(self, index: Any) -> Tensor:
        return self.mask[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mask, name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.masked_scatter, torch.masked_scatter) and not kwargs and isinstance(args[1], cls):
            embeddings, where, features = args
            flat = embeddings.flatten(0, 1).index_copy(0, where.places, features.reshape(-1, embeddings.shape[-1]))
            return flat.view_as(embeddings)
        plain = [entry.mask if isinstance(entry, cls) else entry for entry in args]
        return func(*plain, **(kwargs or {}))


@contextmanager
def placing_images(model: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Inside, the model puts features of images and videos where the batch says they belong, without a look at the
    device.

    Models that are not listed keep their own way: their masks have other shapes, arguments and uses. The first time, a
    model's own way is taken and compared with this one; where they differ it is kept.
    """
    base: Any = base_model(model)
    inner: Any = submodule(base, "model")
    config = getattr(inner, "config", None)
    given = {"image": (batch.image_token_id, batch.image_places), "video": (batch.video_token_id, batch.video_places)}
    placed = {
        kind: (token, places)
        for kind, (token, places) in given.items()
        if token is not None and places is not None and token == getattr(config, f"{kind}_token_id", None)
    }
    if not placed or getattr(base.config, "model_type", "") not in _PLACED:
        yield
        return
    with ExitStack() as stack:
        if hasattr(inner, "get_placeholder_mask"):
            stack.enter_context(replaced(inner, "get_placeholder_mask", _placeholders(inner, batch, placed)))
        language: Any = getattr(inner, "language_model", None)
        if hasattr(language, "_deepstack_process"):
            every = [places for _, places in placed.values()]
            places = every[0] if len(every) == 1 else torch.cat(every).sort().values  # as the model joins them
            stack.enter_context(replaced(language, "_deepstack_process", _deepstack(language, places)))
        yield


@contextmanager
def replaced(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, a module has this function in place of its method."""
    before = module.__dict__.get(name)
    module.__dict__[name] = function
    try:
        yield
    finally:
        if before is None:
            del module.__dict__[name]
        else:
            module.__dict__[name] = before


@contextmanager
def telling_misfits(batch: PairBatch) -> Iterator[None]:
    """Around a model that compares images with their places by itself.

    Raises:
        DataError: they do not match.
    """
    try:
        yield
    except ValueError as err:
        if not batch.vision or _MISFIT not in str(err):
            raise
        raise DataError(f"pairs {', '.join(batch.pair_ids)}: {one_line(err)}: {TWO_MODELS}") from err


def _placeholders(inner: Any, batch: PairBatch, placed: Mapping[str, tuple[int, Tensor]]) -> Callable[..., Any]:
    """In place of ``get_placeholder_mask``, which returns a mask, or one each for images and videos."""
    stock = inner.get_placeholder_mask

    def found(
        input_ids: Tensor | None = None, inputs_embeds: Any = None, image_features: Any = None, **other: Any
    ) -> Any:
        given = {"image_features": image_features, **other}
        asked = {name: value for name, value in given.items() if value is not None}
        kind = next(iter(asked), "").removesuffix("_features")
        if input_ids is None or len(asked) != 1 or kind not in placed or _agreed(inner, kind) == "no":
            return stock(input_ids, inputs_embeds=inputs_embeds, **given)
        token, places = placed[kind]
        features = asked[f"{kind}_features"].numel() // inputs_embeds.shape[-1]
        if features != len(places):
            raise DataError(
                f"pairs {', '.join(batch.pair_ids)} have {len(places)} {kind} tokens and the model makes {features} "
                f"features of their {kind}s: {TWO_MODELS}"
            )
        mask = input_ids.eq(token).unsqueeze(-1)
        order = 1 if kind == "video" else 0
        if _agreed(inner, kind) is None:
            masks = stock(input_ids, inputs_embeds=inputs_embeds, **given)
            own = masks[order] if isinstance(masks, tuple) else masks
            same = own.shape[:-1] == mask.shape[:-1] and torch.equal(own, mask.expand_as(own))
            _AGREES.setdefault(inner, {})[kind] = "no" if not same else "two" if isinstance(masks, tuple) else "one"
            return masks
        where = _Places(mask, places)
        if _agreed(inner, kind) == "one":
            return where
        return (None, where) if order else (where, None)

    return found


def _agreed(module: nn.Module, kind: str) -> str | None:
    """What was seen of a module's own way; None before it was looked at."""
    return _AGREES.get(module, {}).get(kind)


def _deepstack(language: Any, places: Tensor) -> Callable[..., Any]:
    """In place of ``_deepstack_process``, which adds features of the tower's layers to hidden states under a mask."""
    stock = language._deepstack_process

    def added(hidden: Tensor, mask: Tensor, features: Tensor) -> Any:
        if _agreed(language, "") == "no":
            return stock(hidden, mask, features)
        flat = hidden.flatten(0, 1)
        moved = flat.index_select(0, places) + features.to(hidden.device, hidden.dtype)
        ours = flat.index_copy(0, places, moved).view_as(hidden)
        if _agreed(language, "") is None:
            with torch.no_grad():
                same = torch.equal(stock(hidden, mask, features), ours)
            _AGREES.setdefault(language, {})[""] = "one" if same else "no"
            if not same:
                return stock(hidden, mask, features)
        return ours

    return added
