"""Training that starts from an adapter: preference training after SFT, compared with where it starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmpref import PreferenceTrainer
from mmpref.cli.main import main
from mmpref.models import LoadSettings, Tuning, choose_reference, load, prepare
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.folder import RunDir
from mmpref.training.run.start_adapter import with_start_adapter
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.tiers import corners
from tests.tiny_vlms import build

FAST = ("train.per_device_train_batch_size=8", "train.learning_rate=1e-2", "train.warmup_steps=0",
        "train.max_steps=3", "data.eval=[]", "train.logging_steps=1")  # fmt: skip
TRAINED = "adapter_model.safetensors"


def sft(place: Place, out: Path, adapter: str, *changes: str) -> Path:
    arguments = place.training("demo_sft_chosen", out, *FAST, f"adapter={adapter}", *changes)
    if not any(change.startswith("tune=") for change in changes):
        arguments.append("tune={language: lora}")
    assert main(arguments) == 0
    return out


def further(place: Place, out: Path, start: Path, *changes: str) -> list[str]:
    return place.training("demo_dpo", out, *FAST, "tune={}", f"adapter={{path: {start}}}", *changes)


def log(run: Path) -> dict[str, list[Any]]:
    return read_pair_log(RunDir(run).pairs_file)


def manifest(run: Path) -> dict[str, Any]:
    return RunDir(run).manifest()


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(RunDir(run).model / TRAINED)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


@pytest.fixture(scope="module")
def start(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained LoRA on the vision tower and the language model and the projector itself."""
    out = tmp_path_factory.mktemp("sft") / "run"
    return sft(place, out, "{kind: lora, rank: 4, alpha: 6}", "tune={vision: lora, projector: full, language: lora}")


def test_preference_training_goes_on_from_an_sft_run_and_is_compared_with_it(
    place: Place, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(further(place, run, start)) == 0
    told = said(capsys)
    assert f"starts from the adapter in {start} (rank 4, alpha 6; LoRA on language, vision, whole weights of" in told
    assert "reference: a frozen copy of the adapter as it starts (it was trained before)" in told
    numbers = log(run)
    # exactly: the same numbers by the same operations, once with each adapter
    assert [m for step, m in zip(numbers["step"], numbers["rewards/margins"], strict=True) if step == 1] == [0.0] * 8
    assert any(m != 0.0 for m in numbers["rewards/margins"])
    before, after = adapter(start), adapter(run)
    assert before.keys() == after.keys()
    assert any("lora_B" in name for name in after)
    assert all(not torch.equal(before[name], after[name]) for name in after)
    recipe = load_recipe(RunDir(run).recipe_file)
    assert (recipe.adapter.kind, recipe.adapter.rank, recipe.adapter.alpha) == ("lora", 4, 6)
    assert recipe.tune.model_dump() == {"vision": "lora", "projector": "full", "language": "lora"}
    assert with_start_adapter(recipe) == recipe
    assert sorted(file.name for file in RunDir(run).model.iterdir() if file.is_dir()) == []


def test_what_config_prints_of_a_start_adapter_trains(
    place: Place, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It printed ``tune.language: full`` and rank 16, which train refused."""
    capsys.readouterr()
    rates = ("train.learning_rates={vision: 1e-5, projector: 1e-4}",)
    assert main(["config", *further(place, tmp_path / "run", start, *rates)[1:]]) == 0
    file = tmp_path / "resolved.yaml"
    file.write_text(capsys.readouterr().out)
    assert main(["train", str(file)]) == 0
    recipe = load_recipe(RunDir(tmp_path / "run").recipe_file)
    assert (recipe.adapter.rank, recipe.adapter.alpha) == (4, 6)
    assert recipe.tune.model_dump() == {"vision": "lora", "projector": "full", "language": "lora"}
    assert recipe.train.learning_rates.model_dump() == {"vision": 1e-5, "projector": 1e-4, "language": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "attention"),
    corners(product(("llava", "qwen2_5_vl"), ("shared_prefix", "plain")), ("qwen2_5_vl", "shared_prefix")),
)
def test_every_reference_of_a_continued_run_gives_the_same_training(
    place: Place, tmp_path: Path, family: str, attention: str
) -> None:
    model = build(family, tmp_path / "model")
    common = (f"model.path={model}", f"model.attention={attention}", "train.learning_rate=2e-3")
    began = sft(place, tmp_path / "sft", "{kind: lora, rank: 4, alpha: 8, use_dora: true}", *common)
    runs = {}
    for kind in ("auto", "copied_adapter", "frozen_copy", "cache"):
        assert main(further(place, tmp_path / kind, began, *common, f"reference.kind={kind}")) == 0
        runs[kind] = (log(tmp_path / kind), adapter(tmp_path / kind))
    numbers, weights = runs["auto"]
    for kind, (other, trained) in runs.items():
        for name in ("logps/chosen", "logps/rejected", "rewards/margins"):
            want, got = torch.tensor(numbers[name]), torch.tensor(other[name])
            torch.testing.assert_close(got, want, atol=3e-4, rtol=1e-4, msg=f"{kind} {name}")
        for name in weights:
            torch.testing.assert_close(trained[name], weights[name], atol=1e-4, rtol=1e-3, msg=f"{kind} {name}")


def test_qlora_goes_on_resumes_exactly_and_is_merged(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    model = build("llava", tmp_path / "model")
    common = (f"model.path={model}", "train.save_steps=1", "train.save_total_limit=null")
    began = sft(place, tmp_path / "sft", "{kind: qlora, rank: 4, dropout: 0.1}", *common)
    section = f"adapter={{path: {began}, kind: qlora}}"
    for name in ("whole", "resumed"):
        assert main(further(place, tmp_path / name, began, *common, section)) == 0
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert load_recipe(RunDir(whole).recipe_file).adapter.dropout == 0.1
    assert log(whole)["rewards/margins"][:8] != [0.0] * 8  # dropout
    stored = load_file(whole / "checkpoints" / "step-2" / "trained.safetensors")
    assert stored
    assert not any("reference" in name for name in stored)
    for folder in ("model", "checkpoints/step-2", "checkpoints/step-3"):
        shutil.rmtree(resumed / folder)
    RunDir(resumed).set_state("running")
    again = further(place, resumed, began, *common, section)
    assert main([*again, "--resume"]) == 0
    assert all(torch.equal(value, adapter(whole)[name]) for name, value in adapter(resumed).items())
    assert log(resumed) == log(whole)
    assert main(["merge", str(whole), "--out", str(tmp_path / "merged"), "--dtype", "float32"]) == 0
    assert (tmp_path / "merged" / "config.json").is_file()

    # a start adapter that is another now is not the one that the checkpoint's run began with
    shutil.rmtree(resumed / "model")
    RunDir(resumed).set_state("running")
    file = RunDir(began).model / TRAINED
    save_file({name: value * 1.01 for name, value in load_file(file).items()}, file)
    capsys.readouterr()
    assert main([*again, "--resume", "--allow-data-change"]) == 6
    assert "belongs to another run: adapter.files" in said(capsys)


@pytest.mark.slow
def test_a_cache_of_another_start_adapter_is_refused(
    place: Place, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = ("reference.kind=cache", f"reference.cache={tmp_path / 'cache'}")
    assert main(further(place, tmp_path / "one", start, *cached)) == 0
    moved = tmp_path / "moved"
    shutil.copytree(RunDir(start).model, moved)
    capsys.readouterr()
    assert main(further(place, tmp_path / "two", moved, *cached)) == 0  # the same adapter in another place
    assert "pairs computed" not in said(capsys)
    other = sft(place, tmp_path / "other", "{kind: lora, rank: 4, alpha: 6}", "seed=3",
                "tune={vision: lora, projector: full, language: lora}")  # fmt: skip
    assert main(further(place, tmp_path / "three", other, *cached)) == 2
    assert "is stale: adapter.files" in said(capsys)
    assert main(place.training("demo_dpo", tmp_path / "four", *FAST, *cached, "adapter.kind=lora",
                               "tune={language: lora}")) == 2  # fmt: skip
    assert "is stale: adapter.files" in said(capsys)


def test_adapter_off_is_the_bare_base_and_says_so(
    place: Place, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(further(place, run, start, "reference.kind=adapter_off")) == 0
    told = said(capsys)
    assert "reference: the bare base model, as asked for, and not the adapter that training starts from" in told
    assert "check: policy equals reference before the first step: skipped (the base was asked for" in told
    base = load(place.model, LoadSettings(dtype="float32"))
    off = choose_reference(base.model, kind="frozen_copy")
    assert off is not None
    first = [value for step, value in zip(log(run)["step"], log(run)["rewards/margins"], strict=True) if step == 1]
    assert all(value != 0.0 for value in first)


def test_what_the_recipe_says_of_the_adapter_must_be_so(
    place: Place, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*changes: str, code: int = 2) -> str:
        assert main(further(place, tmp_path / "run", start, *changes)) == code
        assert not (tmp_path / "run").exists()
        return said(capsys)

    assert "adapter.rank is 8, and the adapter in" in refused("adapter.rank=8")
    assert "adapter.alpha is 32, and the adapter in" in refused("adapter.alpha=32")
    assert "adapter.use_dora is True" in refused("adapter.use_dora=true")
    assert "tune.language is full, and the adapter in" in refused("tune={language: full}")
    assert "has whole weights there" in refused("tune={projector: lora}")
    assert "init: pissa is how a new adapter starts" in refused("adapter.init=pissa")
    assert "set kind: lora or qlora" in refused("adapter.kind=none")
    assert "has no adapter_config.json" in refused(f"adapter.path={tmp_path / 'nothing'}")
    full = tmp_path / "full"
    assert main(place.training("demo_sft_chosen", full, *FAST)) == 0
    assert "is a whole model and no adapter" in refused(f"adapter.path={full}")
    same = ("adapter.rank=4", "adapter.alpha=6", "adapter.dropout=0.05", "tune={vision: freeze, language: lora}")
    assert main(further(place, tmp_path / "same", start, *same)) == 0
    before, after = adapter(start), adapter(tmp_path / "same")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if "vision_tower" not in name} == moved


def test_an_adapter_of_another_model_is_refused(
    place: Place, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = build("qwen2_vl", tmp_path / "qwen")
    assert main(further(place, tmp_path / "run", start, f"model.path={other}")) == 2
    assert "a 'llava' model, and model.path" in said(capsys)

    def changed(name: str, change: Callable[[dict[str, Any]], None]) -> Path:
        """The start adapter for a llava of another size, with a config that does not know where its base is."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        folder = tmp_path / name
        shutil.copytree(place.model, folder)
        config = AutoConfig.from_pretrained(place.model)
        change(config.text_config.__dict__)
        for file in folder.glob("*.safetensors"):
            file.unlink()
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
        return folder

    wide = changed("wide", lambda text: text.update(intermediate_size=2 * text["intermediate_size"]))
    assert main(further(place, tmp_path / "run", start, f"model.path={wide}")) == 2
    told = said(capsys)
    assert "does not fit this model (its adapter_config.json names" in told
    assert "size mismatch" in told
    fewer = {"num_hidden_layers": 1}
    shallow = changed("shallow", lambda text: text.update(fewer, layer_types=None))
    assert main(further(place, tmp_path / "other", start, f"model.path={shallow}")) == 2
    assert "LoRA tensors, and this model has a place for" in said(capsys)


def test_another_base_of_the_same_shape_is_told(
    place: Place, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(place.model, moved)
    assert main(further(place, tmp_path / "same", start, f"model.path={moved}", "train.max_steps=1")) == 0
    assert "it was trained on" not in said(capsys)
    config = json.loads((RunDir(tmp_path / "same").model / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(moved)
    file = moved / "model.safetensors"
    save_file({name: value * 1.001 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    assert main(further(place, tmp_path / "other", start, f"model.path={moved}", "train.max_steps=1")) == 0
    assert f"it was trained on {place.model}, and this run's model is {moved}" in said(capsys)


def test_a_result_is_evaluated_from_its_run_folder(place: Place, start: Path, tmp_path: Path) -> None:
    assert main(further(place, tmp_path / "run", start)) == 0
    results = []
    for name, run in (("before", start), ("after", tmp_path / "run")):
        arguments = ["eval", "--model", str(run), "--benchmark", "preference", "--out", str(tmp_path / name),
                     "--questions", str(place.world.pairs_heldout), "--image-root", str(place.world.root)]  # fmt: skip
        assert main(arguments) == 0
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert results[0]["metrics"] != results[1]["metrics"]


def test_a_script_goes_on_from_an_adapter_in_the_same_five_lines(place: Place, start: Path, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    args = TrainingArguments(str(tmp_path / "out"), per_device_train_batch_size=8, max_steps=2, learning_rate=1e-2,
                             use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True)  # fmt: skip
    trainer = PreferenceTrainer(
        str(place.model), args, objective={"name": "dpo"}, train_pairs=place.world.pairs, adapter=start
    )
    assert trainer.reference is not None
    assert "a frozen copy of the adapter" in trainer.reference.explanation
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    trained = load_file(tmp_path / "trained" / TRAINED)
    assert trained.keys() == adapter(start).keys()
    assert any(not torch.equal(value, adapter(start)[name]) for name, value in trained.items())


def test_asking_a_reference_lets_no_frozen_part_of_a_copied_tower_train(tmp_path: Path) -> None:
    """Qwen's projector lies in the tower, which peft copies whole, and peft lets all of the copy train when it is
    switched on again."""
    from mmpref.models import AdapterSettings
    from mmpref.processing import PairCollator, PairEncoder
    from tests.tiny_vlms import draw, pair

    tuning = Tuning(vision="full", projector="freeze", language="lora")
    loaded = prepare(load(build("qwen2_vl", tmp_path / "m"), trainable=True), tuning, AdapterSettings(rank=4))
    trains = {name for name, value in loaded.model.named_parameters() if value.requires_grad}
    assert not any("merger" in name for name in trains)
    batch = PairCollator(PairEncoder(loaded.processor, loaded.family), draw)([pair("a")])
    for kind in ("adapter_off", "copied_adapter"):
        reference = choose_reference(loaded.model, kind=kind)  # type: ignore[arg-type]
        assert reference is not None
        reference.logps(batch)
        assert {name for name, value in loaded.model.named_parameters() if value.requires_grad} == trains
        assert loaded.model.active_adapter == "default"


def test_a_plan_counts_the_adapter_that_training_would_start_from(
    place: Place, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "demo_dpo", f"model.path={place.model}", f"adapter={{path: {start}}}"]
    assert main([*arguments, "tune={}"]) == 0
    assert "on a card" in said(capsys)
    assert main([*arguments, "tune={}", "adapter.rank=8"]) == 2
    assert "adapter.rank is 8, and the adapter in" in said(capsys)
