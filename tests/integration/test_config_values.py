"""Values in config.json and generation_config.json: what is left out, what is refused in one line, and by whom."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from mmpref.cli.main import main
from mmpref.errors import CheckpointError, ConfigError
from mmpref.models.folder.config_checks import refuse_unsavable
from mmpref.models.load import LoadSettings, check_model, load, load_config
from mmpref.models.save import save_model
from mmpref.planning.plan import Plan, make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.sections import Recipe
from tests.forked_commands import ForkedCommands
from tests.model_types.causal import write_causal
from tests.small_files import write_small_files
from tests.tiers import checkerboard
from tests.tiny_others import write_llava_next_video, write_mllama, write_pixtral, write_video_llava
from tests.tiny_vlms import TINY, build, build_model

Change = Callable[[dict[str, Any]], Any]
OTHERS: dict[str, Callable[[Path], Path]] = {
    "llava_next_video": write_llava_next_video,
    "mllama": write_mllama,
    "pixtral": write_pixtral,
    "video_llava": write_video_llava,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    for kind in ("llava", "text"):
        build(kind, root / kind)
    return root


def changed(folder: Path, out: Path, change: Change, file: str = "config.json") -> Path:
    """A copy of a folder with something else in one of its JSON files."""
    shutil.copytree(folder, out)
    tree = json.loads((out / file).read_text())
    change(tree)
    (out / file).write_text(json.dumps(tree))
    return out


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what commands need, and with nothing at ``model``."""
    write_small_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SETTINGS = ("model.path=model", "train.max_steps=1", "train.use_cpu=true")


def trained(name: str) -> int:
    return main(["train", "recipe.yaml", *SETTINGS, f"output={name}", "preflight=false"])


def recipe(model: Path | str, **more: Any) -> Recipe:
    sections: dict[str, Any] = {
        "model": {"path": str(model)},
        "data": {"train": "unused.jsonl"},
        "loss": {"name": "dpo"},
        "train": {"learning_rate": 1e-6, "use_cpu": True},
    }
    return Recipe.model_validate({"output": "run", **sections, **more})


def planned(model: Path | str) -> Plan:
    return make_plan(recipe(model), PlanInput(image_size=(64, 48), prompt_tokens=20, answer_tokens=20))


# ---- what forward returns, and what cannot be saved ---------------------------------------------------------------


def returns_otherwise(tree: dict[str, Any]) -> None:
    tree |= {"output_attentions": True, "output_hidden_states": True, "return_dict": False}
    tree["text_config"] |= {"return_dict": False, "output_hidden_states": "yes", "output_attentions": 3}
    tree["vision_config"] |= {"return_dict": False, "output_attentions": True}


def test_a_config_that_says_what_forward_returns_trains_and_is_saved(whole: Path, commands: Path) -> None:
    import pyarrow.parquet as pq

    changed(whole / "llava", commands / "model", returns_otherwise)
    assert main(["plan", "recipe.yaml", *SETTINGS, "output=run"]) == 0
    assert trained("run") == 0
    assert load_config(commands / "run/model").get_text_config().return_dict
    shutil.rmtree(commands / "model")
    shutil.copytree(whole / "llava", commands / "model")
    assert trained("plain") == 0
    found, expected = (pq.read_table(commands / name / "pairs.parquet").to_pylist() for name in ("run", "plain"))
    assert found == expected


def test_what_cannot_be_saved_is_known_before_the_first_step(whole: Path, tmp_path: Path) -> None:
    model = load(whole / "llava").model
    refuse_unsavable(model, "here")
    model.config.repetition_penalty = 1.5  # as a callback may: transformers wants it elsewhere, and refuses to write it
    with pytest.raises(ConfigError, match=r"config\.json of here could be trained and not saved: .*repetition_penalty"):
        refuse_unsavable(model, "here")
    with pytest.raises(
        CheckpointError, match=r"out could not be written, nothing was left there: .*repetition_penalty"
    ):
        save_model(model, whole / "llava", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[Change, str]] = {
    "dropout of 2": (lambda tree: tree["text_config"].update(attention_dropout=2.0), "attention_dropout: 2.0, and a"),
    "dropout below 0": (lambda tree: tree["vision_config"].update(attention_dropout=-1), "attention_dropout: -1, "),
    "other names": (lambda tree: tree.update(attribute_map={"hidden_size": "zz"}), "the key attribute_map"),
    "other names inside": (
        lambda tree: tree["text_config"].update(attribute_map={"hidden_size": "zz"}), r"text_config\.attribute_map"
    ),
    "no setter": (lambda tree: tree.update(name_or_path=5, use_return_dict=3), "the key use_return_dict"),
    "configs of parts": (lambda tree: tree.update(sub_configs={"a": 1}), "the key sub_configs"),
    "a method": (lambda tree: tree["text_config"].update(to_dict=3), r"the key text_config\.to_dict"),
    "the check itself": (lambda tree: tree.update(validate=True), "the key validate"),
    "labels": (lambda tree: tree.update(num_labels=10**9), "num_labels: 1000000000, and no model has more than"),
    "fewer labels": (lambda tree: tree.update(num_labels=3 * 10**7), "num_labels: 30000000, and no model has"),
    "labels inside": (lambda tree: tree["text_config"].update(num_labels=10**9), "num_labels: 1000000000, and no"),
    "names of labels": (
        lambda tree: tree.update(id2label={str(n): "x" for n in range(100_001)}), "100,001 entries in id2label"
    ),
    "whole numbers": (lambda tree: tree.update(dtype="int8"), "dtype: int8, and a model computes in floating point"),
    "code": (
        lambda tree: tree.update(model_type="zzz", auto_map={"AutoConfig": "x.Y"}), "mmpref runs no code of"
    ),
    "code for attention": (
        lambda tree: tree["text_config"].update(_attn_implementation="a/b"), "code on the hub, and mmpref runs no code"
    ),
    "unknown packing": (
        lambda tree: tree.update(quantization_config={"quant_method": "zz"}), "quantised by 'zz', which"
    ),
    "packing no object": (lambda tree: tree.update(quantization_config="x"), "quantization_config: 'x', and an object"),
    "a part too many": (lambda tree: tree.update(model_type="llama"), "has a text_config, and a model of type"),
    "kind of positions": (
        lambda tree: tree["text_config"].update(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4}), "'factor'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_no_model_has_is_refused_by_name(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, words = REFUSED[name]
    folder = changed(whole / "llava", tmp_path / "model", change)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(folder)
    text = str(caught.value)
    assert str(folder) in text
    assert text.isprintable()
    assert len(text) < 700
    assert "trust_remote_code" not in text
    assert "".join(capsys.readouterr()) == ""  # no pages of another library before the one line


def test_a_part_of_another_model_that_is_left_in_makes_no_image_model(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole / "text", tmp_path / "model", lambda tree: tree.update(vision_config={"hidden_size": 64}))
    assert planned(folder).shape.image == 0
    assert type(load(folder).model).__name__ == "LlamaForCausalLM"


def test_attention_that_is_not_here_names_the_key_that_helps(whole: Path, tmp_path: Path) -> None:
    folder = changed(
        whole / "text", tmp_path / "model", lambda tree: tree.update(_attn_implementation="flash_attention_2")
    )
    if tf.utils.is_flash_attn_2_available():
        pytest.skip("flash-attn is installed, so nothing is missing")
    with pytest.raises(ConfigError, match=r"write model\.attn_implementation=sdpa in the recipe, or take"):
        load(folder)
    load(folder, LoadSettings(attn_implementation="sdpa"))


def test_attention_that_a_type_does_not_have_names_the_one_that_it_has(tmp_path: Path) -> None:
    folder = write_causal("gemma2", tmp_path / "model")
    with pytest.raises(ConfigError, match=r"write model\.attn_implementation=eager in the recipe"):
        load(folder, LoadSettings(attn_implementation="sdpa"))
    load(folder, LoadSettings(attn_implementation="eager"))


def test_an_unknown_scaling_of_positions_is_named_with_those_that_are_known(whole: Path, tmp_path: Path) -> None:
    rope = {"type": "su", "factor": 4.0}
    folder = changed(whole / "text", tmp_path / "model", lambda tree: tree.update(rope_parameters=rope))
    with pytest.raises(
        ConfigError, match=r"rope_type .*'su', which .* or write one of .*linear.* where that is"
    ) as met:
        load(folder)
    assert "download" not in str(met.value)


# ---- quantised weights --------------------------------------------------------------------------------------------


def one_layer(tree: dict[str, Any]) -> None:
    tree.get("text_config", tree)["num_hidden_layers"] = 1


@pytest.mark.parametrize("method", ["compressed-tensors", "hqq", "torchao"])
def test_a_package_that_reads_quantised_weights_and_is_not_installed_is_named(
    whole: Path, tmp_path: Path, method: str
) -> None:
    packing = {"quant_method": method, "quant_type": "int4_weight_only", "format": "pack-quantized"}
    folder = changed(whole / "text", tmp_path / "model", lambda tree: tree.update(quantization_config=packing))
    if find_spec({"compressed-tensors": "compressed_tensors"}.get(method, method)) is not None:
        pytest.skip(f"{method} is installed")
    with pytest.raises(ConfigError, match=r"(?i)install.*or give the folder of the weights that are not") as met:
        load(folder)
    assert "download" not in str(met.value)


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "bitsandbytes"])
def test_plain_weights_that_say_they_are_quantised_are_refused(whole: Path, tmp_path: Path, method: str) -> None:
    packing = {"quant_method": method, "load_in_4bit": method == "bitsandbytes"}
    folder = changed(whole / "llava", tmp_path / "model", lambda tree: tree.update(quantization_config=packing))
    for look in (check_model, load):
        with pytest.raises(ConfigError, match=r"all of them are stored as F32: take quantization_config out"):
            look(folder)


def test_a_package_that_is_not_here_is_named(whole: Path, tmp_path: Path) -> None:
    packing = {"quant_method": "awq", "bits": 4}
    folder = changed(whole / "llava", tmp_path / "model", lambda tree: tree.update(quantization_config=packing))
    kind: Any = AUTO_QUANTIZER_MAPPING["awq"]
    try:
        kind(tf.AwqConfig(bits=4)).validate_environment(device_map=None)
    except ImportError:
        with pytest.raises(
            ConfigError, match=r"quantised by awq: .*gptqmodel.*; or give the folder of the weights that"
        ):
            planned(folder)
    else:
        pytest.skip("gptqmodel is installed, so nothing is missing")


def test_a_quantised_model_that_lacks_a_layer_is_refused(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    less = changed(whole / "text", tmp_path / "less", one_layer)
    with pytest.raises(ConfigError, match=r"has no place for model\.layers\.1\."):
        load(less, LoadSettings(quantization="nf4"))  # plain weights, quantised while they are read
    packed = load(whole / "text", LoadSettings(quantization="nf4"))
    save_model(packed.model, whole / "text", tmp_path / "packed")
    again = load(tmp_path / "packed").model
    assert again.is_quantized
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, packed.model(ids).logits, atol=0.05)
    with pytest.raises(ConfigError, match=r"has no place for model\.layers\.1\."):
        load(changed(tmp_path / "packed", tmp_path / "packed less", one_layer))


# ---- plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", checkerboard([*TINY, *OTHERS]))
def test_every_family_has_a_plan(tmp_path: Path, name: str) -> None:
    folder = OTHERS[name](tmp_path / "model") if name in OTHERS else build(name, tmp_path / "model")
    plan = planned(folder)
    assert plan.memory.peak > 0
    assert (plan.shape.image > 0) == (name != "text")
    assert (plan.shape.patches > 0) == (plan.shape.image > 0)


_BEFORE = {"original_max_position_embeddings": 1024}
ROPES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "proportional", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, **_BEFORE},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_BEFORE},
    {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, **_BEFORE},
]


@pytest.mark.parametrize("kind", ["llava", "text"])
def test_a_plan_does_not_depend_on_the_kind_of_positions(whole: Path, tmp_path: Path, kind: str) -> None:
    usual = planned(whole / kind).memory
    known = tf.modeling_rope_utils.ROPE_INIT_FUNCTIONS
    for rope in (rope for rope in ROPES if rope["rope_type"] in known):
        settings = {**rope, "rope_theta": 10000.0}
        folder = changed(
            whole / kind,
            tmp_path / rope["rope_type"],
            lambda tree, settings=settings: tree.get("text_config", tree).update(rope_parameters=settings),  # type: ignore[misc]
        )
        assert planned(folder).memory == usual


@pytest.mark.parametrize("kind", ["mamba", "clip"])
def test_what_is_no_language_model_of_layers_has_no_plan(whole: Path, tmp_path: Path, kind: str) -> None:
    folder = changed(whole / "llava", tmp_path / "model", lambda tree: tree["text_config"].update(model_type=kind))
    with pytest.raises(ConfigError, match=r"cannot be counted|no tokens or layers that could be counted"):
        planned(folder)


def test_a_plan_without_the_processor_that_it_needs_says_what_to_give(tmp_path: Path) -> None:
    build_model("gemma3").save_pretrained(tmp_path / "model")
    with pytest.raises(
        ConfigError, match="give a local folder of the model that has its processor and tokenizer files"
    ):
        planned(tmp_path / "model")


@pytest.mark.parametrize(("key", "value"), [("patch_size", 0), ("image_size", 0), ("image_size", [1, 2, 3])])
def test_sides_that_are_none_are_refused_by_name(whole: Path, tmp_path: Path, key: str, value: Any) -> None:
    folder = changed(whole / "llava", tmp_path / "model", lambda tree: tree["vision_config"].update({key: value}))
    with pytest.raises(ConfigError, match=key):
        planned(folder)


# ---- generation ---------------------------------------------------------------------------------------------------

CHANGING = {
    "bad_words_ids": "x", "sequence_bias": "q", "repetition_penalty": 0, "stop_strings": ["a"], "dola_layers": "high",
    "constraints": [1], "force_words_ids": [[1]], "suppress_tokens": list(range(50)), "guidance_scale": 2.0,
    "exponential_decay_length_penalty": [3, 1.5], "forced_bos_token_id": 7, "no_repeat_ngram_size": 1,
    "watermarking_config": "x", "penalty_alpha": 0.6,
}  # fmt: skip
UNUSED = {
    "return_dict_in_generate": True, "output_scores": True, "prompt_lookup_num_tokens": 3, "temperature": "x",
    "top_p": -4, "max_length": "q", "cache_implementation": "zz", "length_penalty": 1.0, "min_length": 0,
}  # fmt: skip


def test_answers_are_greedy_whatever_the_folder_says_of_generation(whole: Path, commands: Path) -> None:
    asked = ["eval", "--image-root", "images", "--benchmark", "pope", "--questions", "q.json", "--max-new-tokens", "6"]
    changed(whole / "llava", commands / "model", lambda tree: tree.update(CHANGING | UNUSED), "generation_config.json")
    found = {}
    for out, model in (("ev", "model"), ("plain", str(whole / "llava"))):
        main([*asked, "--model", model, "--out", out])
        notes = json.loads((commands / out / "results.json").read_text())["notes"]
        found[out] = ((commands / out / "answers.jsonl").read_text(), [note for note in notes if "greedy" in note])
    assert found["ev"][0] == found["plain"][0]
    assert found["plain"][1] == []
    (note,) = found["ev"][1]
    assert "settings of the model's generation_config.json were left out: bad_words_ids, constraints" in note
    assert "and 2 more" in note
    assert not set(UNUSED) & set(note.replace(",", "").split())


def test_a_saved_model_keeps_the_generation_settings_of_its_base(whole: Path, tmp_path: Path) -> None:
    base = changed(
        whole / "text",
        tmp_path / "model",
        lambda tree: tree.update(do_sample=False, temperature=0.6, eos_token_id=[5, 2]),
        "generation_config.json",
    )
    loaded = load(base)
    assert loaded.model.generation_config.eos_token_id == [5, 2]
    save_model(loaded.model, base, tmp_path / "out")  # transformers refuses to write a temperature beside no sampling
    name = "generation_config.json"
    assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.slow
def test_memory_that_runs_out_over_a_config_names_it_in_every_command(whole: Path, commands: Path) -> None:
    shutil.copytree(whole / "llava", commands / "model")
    (commands / "model/config.json").write_text(f'{{"x": "{"a" * 60_000_000}"}}')
    files = ["--image-root", "images", "--benchmark", "pope", "--questions", "q.json", "--out", "ev"]
    with ForkedCommands("mmpref.training.run.run", "mmpref.evals.evaluate", "mmpref.doctor.recipe_check") as run:
        for argv in (
            ["plan", "recipe.yaml", *SETTINGS],
            ["doctor", "recipe.yaml", *SETTINGS],
            ["train", "recipe.yaml", *SETTINGS],
            ["eval", "--model", "model", *files],
        ):
            ended = run(argv, folder=commands, memory_mib=50)
            said = ended.out + ended.err
            assert "config.json cannot be read: out of memory" in said, (argv[0], said[-1000:])
            assert "Traceback" not in said
            assert ended.code == (2 if argv[0] == "doctor" else 5)  # doctor has it among its findings
