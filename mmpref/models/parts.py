"""Which modules of a model are its vision tower, its projector and its language model, found in the model's own code.

Names tell little: the same thing is called aligner, merger, connector, resampler or projector. What the code says is
sure: the text runs through the decoder, the embeddings and the output head; images run through what
``get_image_features`` (or ``forward``, beside the tower) calls; the tower is what was built from the vision config.
What runs for sound only, or not at all when a model reads (heads that draw images), belongs to neither.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from mmpref.errors import ConfigError
from mmpref.processing.family import Family, PartName

_SEEING = ("vision", "visual", "image", "video")
_CONFIGS_OF_SIGHT = (*_SEEING, "vq")  # what cuts images into tokens (Chameleon, Emu3)
_IMAGE_TYPES = "mm_token_type_ids"
_HEARING = ("audio", "speech", "sound")


@dataclass(slots=True)
class Parts:
    """Paths of modules (and single tensors) by what they are; together they cover the model, and none twice."""

    vision: list[str] = field(default_factory=list)
    projector: list[str] = field(default_factory=list)
    language: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    """Neither text nor images run through them: sound, heads that draw."""
    unknown: list[str] = field(default_factory=list)
    """They run, and nothing says for what."""


def with_parts(family: Family, model: PreTrainedModel, named: Mapping[str, PartName] | None = None) -> Family:
    """The family's row with the parts of this very model.

    A row of its own, and the row for text, keep what they say; what is no part by them is added. What a model for text
    has for images or sound is never run here, so that it counts as neither.

    Args:
        family: the row for the model's type.
        model: without an adapter; its weights are not looked at, so that it may be on the meta device.
        named: path -> part, by the user (``model.parts``); goes before everything else.

    Raises:
        ConfigError: a path that the model does not have.
    """
    parts = find_parts(model)
    family = dataclasses.replace(family, other=(), unknown=(), named=())  # of an earlier look
    if not family.has_vision:
        rest = (*parts.vision, *parts.projector, *parts.other)
        unsure = parts.unknown if parts.vision or parts.projector else []  # else what runs can only be language
        family = dataclasses.replace(family, other=rest, unknown=tuple(unsure))
    elif family.finds_parts:
        family = dataclasses.replace(
            family,
            vision=tuple(parts.vision),
            projector=tuple(parts.projector),
            language=tuple(parts.language),
            other=tuple(parts.other),
            unknown=tuple(parts.unknown),
            token_types=family.token_types or _token_types(model),
        )
    else:
        other, unknown = (
            tuple(path for path in paths if family.part_of(path) == "language")
            for paths in (parts.other, parts.unknown)
        )
        family = dataclasses.replace(family, other=other, unknown=unknown)
    for path in named or {}:
        if not any(name == path or name.startswith(f"{path}.") for name, _ in model.named_parameters()):
            raise ConfigError(f"model.parts names '{path}', and this '{family.name}' model has no weights there")
    said = tuple((named or {}).items())
    unknown = tuple(path for path in family.unknown if path not in (named or {}))
    return dataclasses.replace(family, named=said, unknown=unknown)


def _token_types(model: PreTrainedModel) -> str | None:
    """The input that tells image tokens from others, where the model's code takes one; not every processor gives it."""
    return _IMAGE_TYPES if _IMAGE_TYPES in inspect.signature(model.forward).parameters else None


def find_parts(model: PreTrainedModel) -> Parts:
    """The parts of a model of transformers, of any type."""
    finder = _Finder(model)
    finder.walk(model, "")
    if not finder.parts.projector:
        finder.look_into_towers()
    return finder.parts


class _Finder:
    """Walks down from a model to whole parts."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.parts = Parts()
        self._model = model
        self._decoder = _or_none(model.get_decoder)
        core = (self._decoder, _or_none(model.get_input_embeddings), _or_none(model.get_output_embeddings))
        self._core = {module for module in core if isinstance(module, nn.Module)}
        self._kinds = _kinds(model.config)
        tower = _or_none(lambda: model.get_encoder(modality="image"))
        self._named_tower = tower if isinstance(tower, nn.Module) and not self._holds_core(tower) else None

    def walk(self, module: nn.Module, path: str) -> None:
        """Sort what is directly below a module that is not of one part."""
        seeing, hearing, running = _called(module, _SEEING), _called(module, _HEARING), _called(module)
        beside_tower = any(self._is_tower(child) for child in module.children())
        for name, child in _weighty(module):
            where = f"{path}.{name}" if path else name
            if isinstance(child, nn.Module) and self._holds_core(child):
                if self._is_mixed(child):
                    self.walk(child, where)
                else:
                    self.parts.language.append(where)
            elif (name not in seeing and (name in hearing or name not in running)) or self._is_heard(child):
                self.parts.other.append(where)
            elif self._is_tower(child):
                if self._wraps_a_tower(child):
                    self.walk(cast(nn.Module, child), where)
                else:
                    self.parts.vision.append(where)
            elif name in seeing:
                self.parts.projector.append(where)
            elif module is self._decoder:  # which has the towers in it, so that its own layers stand beside them
                in_name = any(word in name for word in (*_SEEING, "img", "perceiver"))
                (self.parts.projector if in_name else self.parts.language).append(where)
            elif beside_tower:  # called in forward, with what the tower gives
                self.parts.projector.append(where)
            else:
                self.parts.unknown.append(where)

    def look_into_towers(self) -> None:
        """The projector may be the end of the tower: what runs there after the layers and is more than a norm."""
        for path in self.parts.vision:
            tower = self._model.get_submodule(path)
            children = dict(tower.named_children())
            order = [name for name in _in_order(tower) if name in children]
            stacks = [name for name in order if _num_layers(children[name]) > 1 and _has_attention(children[name])]
            if not stacks:
                continue
            after = order[order.index(stacks[0]) + 1 :]
            self.parts.projector += [f"{path}.{name}" for name in after if _maps(children[name])]

    def _holds_core(self, child: nn.Module | nn.Parameter) -> bool:
        return isinstance(child, nn.Module) and any(module in self._core for module in child.modules())

    def _is_mixed(self, child: nn.Module) -> bool:
        """Whether something that is not language lies inside."""
        if any(self._is_tower(module) or self._is_heard(module) for module in child.modules() if module is not child):
            return True
        return any(
            _called(module, (*_SEEING, *_HEARING)) for module in child.modules() if isinstance(module, PreTrainedModel)
        )

    def _is_tower(self, child: nn.Module | nn.Parameter) -> bool:
        if not isinstance(child, nn.Module) or self._holds_core(child):
            return False
        return any(module is self._named_tower or self._kind(module) == "vision" for module in child.modules())

    def _wraps_a_tower(self, child: nn.Module | nn.Parameter) -> bool:
        """Whether a whole tower stands in it beside other things, as in Phi-4-multimodal's module for all that is
        seen and heard."""
        return not isinstance(child, PreTrainedModel) and child is not self._named_tower

    def _is_heard(self, child: nn.Module | nn.Parameter) -> bool:
        if not isinstance(child, nn.Module) or self._holds_core(child):
            return False
        kinds = {self._kind(module) for module in child.modules()}
        return "audio" in kinds and "vision" not in kinds

    def _kind(self, module: nn.Module) -> str | None:
        """What a whole model inside the model was built from: ``vision``, ``audio``, or None."""
        if not isinstance(module, PreTrainedModel) or module is self._model:
            return None
        return self._kinds.get(type(module.config))


def _kinds(config: PretrainedConfig) -> dict[type[PretrainedConfig], str]:
    """Class of every config inside a config -> ``vision`` or ``audio``, by the key it stands under."""
    found: dict[type[PretrainedConfig], str] = {}
    for key, value in vars(config).items():
        if not isinstance(value, PretrainedConfig) or type(value) is type(config):
            continue
        kind = "vision" if any(word in key for word in _CONFIGS_OF_SIGHT) else None
        kind = "audio" if any(word in key for word in _HEARING) else kind
        found.update(_kinds(value) if kind is None else {type(value): kind})
    return found


def _weighty(module: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """What is directly below and has weights."""
    yield from ((name, child) for name, child in module.named_children() if any(True for _ in child.parameters()))
    yield from module.named_parameters(recurse=False)


def _called(module: nn.Module, words: tuple[str, ...] = ()) -> set[str]:
    """What a module uses of its own in ``forward``; with words, in its methods that get such features."""
    if not words:
        return set(_in_order(module, spare=_HEARING))
    names = (f"get_{word}_features" for word in words)
    return {found for name in names for found in _in_order(module, name)}


def _in_order(module: nn.Module, method: str = "forward", *, spare: tuple[str, ...] = ()) -> list[str]:
    """Names below a module that a method and the methods it calls mention, in the order in which they do.

    Args:
        spare: methods with such a word in their names are not followed.
    """
    own = {name for name, _ in _weighty(module)}
    kind, seen, found = type(module), set(), []

    def follow(name: str) -> None:
        member = inspect.getattr_static(kind, name, None)
        member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name in seen or not callable(member) or any(word in name for word in spare):
            return
        seen.add(name)
        code = getattr(inspect.unwrap(member), "__code__", None)
        for mentioned in () if code is None else _names(code):
            if mentioned in own:
                found.append(mentioned)
            elif mentioned not in _EVERYWHERE:
                follow(mentioned)

    follow(method)
    return list(dict.fromkeys(found))


_EVERYWHERE = frozenset(dir(PreTrainedModel))
"""Methods of every model; they find modules by name, and say nothing of what runs."""


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _num_layers(module: nn.Module) -> int:
    return max((len(inner) for inner in module.modules() if isinstance(inner, nn.ModuleList)), default=0)


def _has_attention(module: nn.Module) -> bool:
    return any("attention" in type(inner).__name__.lower() for inner in module.modules())


def _maps(module: nn.Module) -> bool:
    """Whether it has a matrix: a norm has none."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _or_none(get: Any) -> Any:
    """What a model says of itself, where its class knows the question."""
    try:
        return get()
    except (NotImplementedError, AttributeError, TypeError):
        return None
