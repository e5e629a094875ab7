"""Kinds of models that are refused by name, and folders that contradict themselves: one line, whose advice works."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from mmpref.errors import ConfigError
from mmpref.models import load, load_model, load_processor
from mmpref.models.folder.kinds import refuse_reading_ahead
from mmpref.models.load import empty_model, load_config
from tests.model_types.causal import write_causal
from tests.model_types.folders import make_tokenizer, write_folder
from tests.model_types.qwen import WRITERS
from tests.tiny_others import write_paligemma
from tests.tiny_vlms import build

Change = Callable[[dict[str, Any]], object]


def changed(file: Path, change: Change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llava", tmp_path_factory.mktemp("kinds") / "llava")


@pytest.fixture
def folder(llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llava, tmp_path / "model"))


def said(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- kinds ---------------------------------------------------------------------------------------------------------


def bert(*, is_decoder: bool) -> tf.PreTrainedModel:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = tf.BertConfig(**sizes, vocab_size=len(make_tokenizer()), is_decoder=is_decoder)
    return tf.BertLMHeadModel(config)


def test_a_model_that_sees_what_comes_next_is_refused_and_the_same_type_as_a_decoder_is_taken(tmp_path: Path) -> None:
    write_folder(tmp_path / "gaps", bert(is_decoder=False), make_tokenizer())
    assert re.search(
        r"'bert' model that reads its text in both directions \(is_decoder: false", said(tmp_path / "gaps")
    )
    with pytest.raises(ConfigError, match="is_decoder: false"):
        empty_model(load_config(tmp_path / "gaps"), dtype=torch.float32, attn_implementation="eager")
    write_folder(tmp_path / "left", bert(is_decoder=True), make_tokenizer())
    assert load(tmp_path / "left").model.config.is_decoder


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama", "is_causal", False),
        ("qwen2", "is_causal", False),
        ("gemma", "use_bidirectional_attention", True),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("gemma4_text", "use_bidirectional_attention", "all"),
    ],
)
def test_a_decoder_that_was_made_into_one_for_embeddings_is_refused(
    name: str, key: str, value: Any, tmp_path: Path
) -> None:
    write_causal(name, tmp_path / "model")
    load(tmp_path / "model")
    changed(tmp_path / "model" / "config.json", lambda tree: tree.update({key: value}))
    message = said(tmp_path / "model")
    assert f"reads its text in both directions ({key}: {json.dumps(value)} in config.json)" in message
    with pytest.raises(ConfigError, match=key):
        empty_model(load_config(tmp_path / "model"), dtype=torch.float32, attn_implementation="eager")
    changed(tmp_path / "model" / "config.json", lambda tree: tree.pop(key))  # as the message says
    load(tmp_path / "model")


def test_images_that_are_read_in_both_directions_are_no_text_that_is(tmp_path: Path) -> None:
    write_causal("gemma4_text", tmp_path / "model")
    changed(tmp_path / "model" / "config.json", lambda tree: tree.update(use_bidirectional_attention="vision"))
    load(tmp_path / "model")
    load(write_paligemma(tmp_path / "prompt"))


def test_a_config_with_that_key_whose_code_never_asks_it_is_a_decoder() -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    model = tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**sizes, vocab_size=100))
    assert model.config.is_decoder is False
    refuse_reading_ahead(model, "model")


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("t5", "encoder-decoder"),
        ("chameleon", "images as tokens of a vocabulary"),
        ("instructblip", "makes the features of an image from the text beside it"),
        ("pi0", "moves a robot"),
        ("qwen2_audio", "hears sound"),
        ("clip", "has no causal LM or image-text-to-text model for"),
        ("xlnet", "in both directions"),
    ],
)
def test_other_kinds_are_refused_by_name_with_the_reason(folder: Path, model_type: str, words: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    message = said(folder)
    assert f"is a model of type '{model_type}'" in message
    assert words in message
    assert re.search(r"use a decoder (instead|with a vision tower instead), such as ", message)


# ---- contradictions ------------------------------------------------------------------------------------------------


def test_an_unknown_type_names_the_installed_release_and_the_one_that_wrote_it(folder: Path) -> None:
    changed(folder / "config.json", lambda config: config.update(model_type="llava9", transformers_version="9.1.0"))
    message = said(folder)
    assert (
        f"'llava9', which the installed transformers {tf.__version__} does not know (9.1.0 wrote the folder)" in message
    )
    assert "pip install -U transformers" in message


def test_a_type_in_another_spelling_is_named_as_it_is_spelt(folder: Path) -> None:
    changed(folder / "config.json", lambda config: config.update(model_type="LLaVA"))
    meant = re.search(r"write '(\w+)' if that is meant", said(folder))
    assert meant is not None
    changed(folder / "config.json", lambda config: config.update(model_type=meant[1]))
    load(folder)


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_a_part_of_an_unknown_type_is_named(folder: Path, part: str) -> None:
    changed(folder / "config.json", lambda config: config[part].update(model_type="dino9"))
    assert f"has the {part}.model_type 'dino9', which the installed transformers" in said(folder)


def test_weights_of_another_type_name_the_contradiction(folder: Path) -> None:
    changed(folder / "config.json", lambda config: config.update(model_type="vipllava"))
    message = said(folder)
    named = re.search(r"architecture LlavaForConditionalGeneration, which is of model_type '(\w+)', beside", message)
    assert named is not None
    assert "write the model_type that the weights are of" in message
    changed(folder / "config.json", lambda config: config.update(model_type=named[1]))
    load(folder)


def test_weights_of_a_text_model_under_the_config_of_one_that_sees(folder: Path, tmp_path: Path) -> None:
    text = build("text", tmp_path / "text")
    shutil.copy(text / "model.safetensors", folder)
    words = json.loads((text / "config.json").read_text())["vocab_size"]

    def change(config: dict[str, Any]) -> None:
        config["architectures"] = ["LlamaForCausalLM"]
        config["text_config"]["vocab_size"] = words

    changed(folder / "config.json", change)
    assert re.search(r"lack model\.\S+ .*LlamaForCausalLM, which is of model_type 'llama'", said(folder))


def test_an_architecture_that_contradicts_weights_that_fit_is_only_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed(folder / "config.json", lambda config: config.update(architectures=["Qwen2VLForConditionalGeneration"]))
    with caplog.at_level(logging.WARNING):
        assert type(load_model(folder)).__name__ == "LlavaForConditionalGeneration"
    assert "names the architecture Qwen2VLForConditionalGeneration, which is of model_type 'qwen2_vl'" in caplog.text


def test_a_folder_with_only_a_tokenizer_says_which_files_are_missing(llava: Path, folder: Path) -> None:
    (folder / "processor_config.json").unlink()
    message = said(folder)
    assert "has no preprocessor_config.json, and no image_processor in a processor_config.json" in message
    assert "copy the processor files of the model that it was made from" in message
    shutil.copy(llava / "processor_config.json", folder)
    load_processor(folder)


def test_an_image_processor_that_is_not_there_is_named(folder: Path) -> None:
    file = folder / "processor_config.json"
    right = json.loads(file.read_text())["image_processor"]["image_processor_type"]
    changed(file, lambda settings: settings["image_processor"].update(image_processor_type="NoSuchImageProcessor"))
    assert re.search(
        r"'NoSuchImageProcessor', which transformers .* write the right image_processor_type", said(folder)
    )
    changed(file, lambda settings: settings["image_processor"].update(image_processor_type=right))
    load_processor(folder)


def test_a_processor_that_is_code_of_the_folder_is_not_run(folder: Path) -> None:
    code = {"auto_map": {"AutoProcessor": "processing.MyProcessor"}, "processor_class": "MyProcessor"}
    changed(folder / "processor_config.json", lambda settings: settings.update(code))
    (folder / "processing.py").write_text("raise SystemExit('run')")
    assert "the processor 'MyProcessor' is code that comes with the folder (auto_map)" in said(folder)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_package_that_is_missing_is_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "timm_wrapper"}))
    assert "without the package timm: install it (pip install timm)" in said(folder)


def test_a_model_of_several_models_says_how_its_reading_part_is_given_and_that_works(tmp_path: Path) -> None:
    part = WRITERS["qwen3_omni_moe_thinker"](tmp_path / "part")
    thinker = tf.Qwen3OmniMoeThinkerConfig.from_pretrained(part)
    whole = tf.Qwen3OmniMoeConfig(thinker_config=thinker.to_dict(), enable_audio_output=False)
    tf.Qwen3OmniMoeForConditionalGeneration(whole).save_pretrained(tmp_path / "whole")
    for file in part.iterdir():
        if not (tmp_path / "whole" / file.name).exists():
            shutil.copy(file, tmp_path / "whole")
    assert "save its 'thinker' (model.thinker.save_pretrained)" in said(tmp_path / "whole")
    tf.Qwen3OmniMoeForConditionalGeneration.from_pretrained(tmp_path / "whole").thinker.save_pretrained(
        tmp_path / "own"
    )
    for file in (tmp_path / "whole").iterdir():
        if not (tmp_path / "own" / file.name).exists() and "safetensors" not in file.name:
            shutil.copy(file, tmp_path / "own")
    assert load(tmp_path / "own").family.has_vision
