"""A family is a row of facts: the right row is found, and its paths are those of the real model."""

from __future__ import annotations

import pytest

from mmpref.errors import ConfigError
from mmpref.processing import FAMILIES, family_of
from tests.tiny_vlms import VISION, build_model


def test_every_model_type_has_one_row() -> None:
    types = [name for family in FAMILIES for name in family.model_types]
    assert len(types) == len(set(types))
    assert all(family_of(name, has_vision=True).model_types >= {name} for name in types)


def test_unknown_models_take_the_generic_row_and_say_so() -> None:
    family = family_of("idefics9", has_vision=True)
    assert family.name == "generic"
    assert not family.shared_prefix
    assert "idefics9" in family.note
    assert "plain path" in family.note
    text = family_of("llama", has_vision=False)
    assert text.name == "text"
    assert not text.has_vision


def test_the_text_part_of_a_vision_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"qwen2_vl.*no vision_config"):
        family_of("qwen2_vl", has_vision=False)


@pytest.mark.parametrize("name", VISION)
def test_the_paths_are_those_of_the_model(name: str) -> None:
    model = build_model(name)
    family = family_of(model.config.model_type, has_vision=True)
    parts: dict[str, set[str]] = {"vision": set(), "projector": set(), "language": set()}
    for parameter, _ in model.named_parameters():
        parts[family.part_of(parameter)].add(parameter)
    assert all(parts.values()), f"a part without parameters: { {key: len(value) for key, value in parts.items()} }"
    outside = [p for p in parts["language"] if not p.startswith((*family.language, "lm_head"))]
    assert not outside
    if family.name != "generic":
        every_path = (*family.vision, *family.language)
        assert all(any(p.startswith(path + ".") for p, _ in model.named_parameters()) for path in every_path)


def test_part_of_does_not_mistake_a_longer_name() -> None:
    family = family_of("qwen2_vl", has_vision=True)
    assert family.part_of("model.visual.merger.mlp.0.weight") == "projector"
    assert family.part_of("model.visual.merger_norm.weight") == "vision"
    assert family.part_of("model.visualizer.weight") == "language"
