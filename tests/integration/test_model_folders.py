"""Model folders as they come: broken, hostile, of other layouts. A broken one is one line, and never a wrong model."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as tf

from mmpref.cli.main import main
from mmpref.errors import ConfigError, MMPrefError
from mmpref.models.folder.processors import processor_class
from mmpref.models.load import load, load_processor
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.processing import EncodeError, LayoutName, PairCollator, PairEncoder
from tests.broken_folders import TEMPLATES, Broken, ways
from tests.integration.conftest import Place
from tests.tiers import corners
from tests.tiny_others import write_llava_next_video, write_mllama, write_pixtral, write_video_llava
from tests.tiny_vlms import build, draw, pair

KINDS = ("llava", "qwen2_vl", "qwen2_5_vl", "text", "adapter")
_MEMORY = 2 * 2**30
"""Bytes that a broken folder may take more than a whole one did."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of every kind; the adapter is for the LLaVA."""
    root = tmp_path_factory.mktemp("whole")
    for kind in KINDS[:-1]:
        build(kind, root / kind)
    settings = peft.LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj)", init_lora_weights=False)
    peft.get_peft_model(load(root / "llava").model, settings).save_pretrained(root / "adapter")
    return root


def numbers(whole: Path, folder: Path, kind: str) -> list[float]:
    """Log-probs of a pair's answers, and what is generated: what training and evaluation make of a folder."""
    is_adapter = kind == "adapter"
    loaded = load(whole / "llava" if is_adapter else folder, adapter=folder if is_adapter else None)
    encoder = PairEncoder(loaded.processor, loaded.family, max_length=512)
    batch = PairCollator(encoder, draw, layout="plain")([pair(images=("28x28-1",) if kind != "text" else ())])
    with torch.no_grad():
        found = pair_logps(loaded.model, batch)
        written = loaded.model.generate(input_ids=torch.tensor([[5]]), max_new_tokens=3, do_sample=False)
    assert found.rejected is not None
    return [float(found.chosen), float(found.rejected), *written[0].tolist()]


def outcome(whole: Path, broken: Broken, out: Path) -> list[float] | str:
    folder = broken.make(whole / broken.of, out)
    try:
        return numbers(whole, folder, broken.of)
    except MMPrefError as err:
        text = str(err)
        named = str(folder) in text or isinstance(err, EncodeError)
        return text if named and text.isprintable() and len(text) < 600 else f"NOT ONE LINE THAT NAMES IT: {text}"
    finally:
        shutil.rmtree(out, ignore_errors=True)


def sweep(whole: Path, tmp_path: Path, broken: list[Broken]) -> dict[str, str]:
    """What went wrong, by name of what was broken."""
    wrong = {}
    expected = {kind: numbers(whole, whole / kind, kind) for kind in dict.fromkeys(one.of for one in broken)}
    for one in broken:
        try:
            found = outcome(whole, one, tmp_path / "folder")
        except Exception as err:
            wrong[f"{one.of}: {one.name}"] = f"{type(err).__name__}: {err}"
            continue
        if isinstance(found, str) and found.startswith("NOT"):
            wrong[f"{one.of}: {one.name}"] = found
        elif not isinstance(found, str) and found != pytest.approx(expected[one.of], abs=1e-4):
            wrong[f"{one.of}: {one.name}"] = f"{found} and not {expected[one.of]}"
    return wrong


@pytest.fixture
def bounded_memory() -> Any:
    """More than the bound cannot be had; an allocation above it fails and shows as what it is."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


_OFTEN = (
    "config.json: deep", "config.json: pipe", "config.json: latin", "config.json: digits", "config.json: loop",
    "cut data", "huge header", "header of 10 GB", "whole numbers", "other shape", "other name", "one removed",
    "no tensors", "index names a missing shard", "index leaves the folder", "index whole", "index map is a list",
    "pickled .bin", "gguf", "no weights", "ids beyond the rows", "empty vocabulary", "tokenizer.json: gone",
    "template: larger text", "template: brackets", "template: long", "template: no template",
)  # fmt: skip


def test_a_broken_folder_is_one_line(whole: Path, tmp_path: Path, bounded_memory: None) -> None:
    some = [one for one in ways("llava", whole / "llava") if one.name in _OFTEN]
    some += [one for one in ways("adapter", whole / "adapter") if one.name in ("cut data", "adapter_config.json: list")]
    assert len(some) == len(_OFTEN) + 2
    assert sweep(whole, tmp_path, some) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_broken_folder_is_one_line(whole: Path, tmp_path: Path, bounded_memory: None, kind: str) -> None:
    every = ways(kind, whole / kind)
    assert len(every) > (45 if kind == "adapter" else 100)
    assert sweep(whole, tmp_path, every) == {}


@pytest.mark.slow
def test_commands_say_it_in_one_line(whole: Path, place: Place, tmp_path: Path) -> None:
    """Through processes of their own, with a limit on memory."""
    some = ways("llava", whole / "llava", seed=1)[::12]
    for number, one in enumerate(some):
        folder = one.make(whole / "llava", tmp_path / f"folder{number}")
        recipe = place.training("demo_dpo", tmp_path / f"run{number}", f"model.path={folder}", "train.max_steps=1")[1:]
        for command in (["train", *recipe], ["doctor", *recipe], ["plan", *recipe]):
            done = subprocess.run(
                [sys.executable, "-m", "mmpref", *command],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30)),
            )
            assert "Traceback" not in done.stderr, (one.name, command[0], done.stderr[-2000:])
            assert done.returncode in (0, 2, 3), (one.name, command[0], done.returncode, done.stderr[-2000:])
        shutil.rmtree(folder)


@pytest.mark.parametrize("text", corners(["larger text", "doubling", "list in itself"], "doubling"))
def test_a_template_that_takes_too_much_stops_every_command(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(place.model, model)
    (model / "chat_template.jinja").write_text(TEMPLATES[text])
    _, recipe, *rest = training = place.training("demo_dpo", tmp_path / "run", f"model.path={model}")
    for command in (training, ["doctor", recipe, *rest]):
        assert main(command) == 2
        told = "".join(capsys.readouterr())  # doctor lists it among its findings
        assert "chat_template.jinja) takes more than" in told
        assert "put another chat_template.jinja" in told


# ---- names and kinds of folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a\0b/model", "null byte"),
        ("/tmp/" + "n" * 300, "name too long"),
        ("/tmp/\ud800", "surrogates"),
        ("", "empty"),
    ],
)
def test_a_path_that_no_file_system_has_is_refused(path: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert reason in str(caught.value).lower()
    assert str(caught.value).isprintable()


def test_a_link_to_itself_and_a_file_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=r"loop.*symbolic links"):
        load(tmp_path / "loop")
    (tmp_path / "gone").symlink_to("nothing")
    with pytest.raises(ConfigError, match="link to something that is not there"):
        load(tmp_path / "gone")
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ConfigError, match="is a file"):
        load(tmp_path / "file")


def test_a_folder_with_model_and_adapter_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "llava", tmp_path / "both")
    shutil.copy(whole / "adapter/adapter_config.json", tmp_path / "both")
    with pytest.raises(ConfigError, match="a model and an adapter"):
        load(tmp_path / "both")


def test_an_encoder_decoder_is_refused_by_name(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "llava", tmp_path / "florence")
    file = tmp_path / "florence/config.json"
    file.write_text(json.dumps({"model_type": "florence2"}))
    with pytest.raises(ConfigError, match=r"'florence2'.*encoder-decoder"):
        load(tmp_path / "florence")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "florence2"}, "which reads its prompt with an encoder of its own (encoder-decoder)"),
        ({"model_type": "chameleon"}, "which reads and draws images as tokens of a vocabulary"),
        ({"model_type": "qwen9_vl"}, "has the model_type 'qwen9_vl', which the installed transformers"),
        (
            {"model_type": "internvl_chat", "auto_map": {"AutoModel": "x.Y"}},
            "code that comes with the folder (auto_map)",
        ),
        ({"model_type": "bert", "is_decoder": False}, "reads its text in both directions"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_commands_refuse_a_kind_of_model_in_the_same_line(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], words: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(place.model, model)
    (model / "config.json").write_text(json.dumps(config))
    _, recipe, *rest = training = place.training("demo_dpo", tmp_path / "run", f"model.path={model}")
    asking = ["--model", str(model), "--benchmark", "preference", "--questions", str(place.world.pairs_heldout)]
    answering = ["eval", *asking, "--image-root", str(place.world.root), "--out", str(tmp_path / "out")]
    # a BERT is only told from a decoder when the model is built, whose weights are looked at before that
    commands = (
        [["plan", recipe, *rest]] if config["model_type"] == "bert" else [training, ["plan", recipe, *rest], answering]
    )
    for command in commands:
        assert main(command) == 2, command[0]
        told = capsys.readouterr().err
        assert words in told, command[0]
        assert "Traceback" not in told
        assert told.count("mmpref: ") == 1


# ---- processors ----------------------------------------------------------------------------------------------------


def with_processor(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))
    return folder


def test_an_old_llava_processor_is_completed_from_the_models_config(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "llava", tmp_path / "old")
    old = with_processor(
        tmp_path / "old",
        lambda settings: (
            [
                settings.pop(key)
                for key in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
            ]
            and None
        ),
    )
    assert numbers(whole, old, "llava") == numbers(whole, whole / "llava", "llava")


def test_a_processor_of_another_model_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "llava", tmp_path / "other")
    other = with_processor(tmp_path / "other", lambda settings: settings.update(processor_class="Qwen2VLProcessor"))
    with pytest.raises(ConfigError, match=r"processor 'Qwen2VLProcessor'.*'llava' has 'LlavaProcessor'"):
        load(other)
    with_processor(other, lambda settings: settings.update(processor_class="SorceryProcessor"))
    with pytest.raises(ConfigError, match=r"processor_config.json asks for the processor 'SorceryProcessor'"):
        load(other)
    with_processor(other, lambda settings: settings.update(processor_class="LlavaProcessor", patch_size=7))
    with pytest.raises(ConfigError, match=r"patch_size: 7, and its config\.json 14"):
        load(other)


@pytest.mark.parametrize("images", [("40x64-1",), ("40x64-1", "64x30-2"), ("200x90-3",)])
def test_pixtral_is_read_as_its_own_processor_reads_it(tmp_path: Path, images: tuple[str, ...]) -> None:
    loaded = load(write_pixtral(tmp_path / "pixtral"))
    assert type(loaded.processor).__name__ == "PixtralProcessor"
    encoder = PairEncoder(loaded.processor, loaded.family)
    one = pair(images=images)
    encoded = encoder.encode(one, draw)
    stock = load_processor(tmp_path / "pixtral")
    asked = [{"type": "image"} for _ in images] + [{"type": "text", "text": "what is in the image ?"}]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": "a red square ."}]
    text = stock.tokenizer.apply_chat_template(turns, tokenize=False)
    expected = stock(
        text=text, images=[[draw(ref) for ref in one.images]], return_tensors="pt", add_special_tokens=False
    )
    ids = [*encoded.prompt_ids.tolist(), *encoded.chosen_ids.tolist()]
    assert ids == expected["input_ids"][0].tolist()[: len(ids)]
    assert torch.equal(encoded.vision["pixel_values"], expected["pixel_values"])
    for token in ("[IMG_BREAK]", "[IMG_END]"):
        assert stock.tokenizer.convert_tokens_to_ids(token) in ids
    batches = [
        PairCollator(encoder, draw, layout=layout)([one, pair("q", images=("64x16-2",))])
        for layout in ("plain", "shared_prefix")
    ]
    with torch.no_grad():
        plain, shared = (pair_logps(loaded.model, batch) for batch in batches)
        alone = loaded.model(**{name: value for name, value in expected.items() if name != "token_type_ids"}).logits
    assert torch.allclose(plain.chosen, shared.chosen, atol=1e-4)
    start = len(encoded.prompt_ids)
    by_hand = alone[0, start - 1 : len(ids) - 1].log_softmax(-1).gather(1, encoded.chosen_ids[:, None]).sum()
    assert float(plain.chosen[0]) == pytest.approx(float(by_hand), abs=1e-4)


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
@pytest.mark.parametrize("write", [write_llava_next_video, write_video_llava, write_mllama])
def test_folders_whose_processors_differ_load_and_see_their_images(
    layout: LayoutName, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    loaded = load(write(tmp_path / "model"))
    encoder = PairEncoder(loaded.processor, loaded.family)
    batch = PairCollator(encoder, draw, layout=layout)([pair(images=("28x28-1",)), pair("q", images=("28x28-2",))])
    with torch.no_grad():
        found = pair_logps(loaded.model, batch)
    assert torch.isfinite(found.chosen).all()
    assert found.chosen[0] != found.chosen[1]  # the images are seen


@pytest.mark.parametrize(("model_type", "name"), [("glm_ocr", "Glm46VProcessor"), ("fast_vlm", "LlavaProcessor")])
def test_a_type_without_a_processor_takes_what_its_folder_names(tmp_path: Path, model_type: str, name: str) -> None:
    config = tf.CONFIG_MAPPING[model_type]()
    with pytest.raises(ConfigError, match=f"no processor for model type '{model_type}'"):
        processor_class(config, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"processor_class": name}))
    assert processor_class(config, tmp_path).__name__ == name
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Idefics3Processor"}))  # goes first
    assert processor_class(config, tmp_path).__name__ == "Idefics3Processor"
