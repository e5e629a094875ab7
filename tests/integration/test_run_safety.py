"""What a run may do to the disk: an earlier run survives until the new one is known to be in order, and a full disk or
a signal at any moment leaves something to go on from."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.claim import Claim
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.checkpoint import in_order, verify
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place

SHORT = ("train.per_device_train_batch_size=16", "train.learning_rate=1e-3", "train.warmup_steps=0",
         "train.logging_steps=1", "train.max_steps=2", "data.eval=[]")  # fmt: skip


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def steps(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def finished(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main(place.training("demo_dpo", out, *SHORT)) == 0
    return out


# ---- overwriting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", [
    "data.train=/nowhere/pairs.jsonl", "data.root=/", "model.path=/nowhere/at/all", "train.optim=lomo",
    "tune={vision: freeze, projector: freeze, language: freeze}", "loss.beta=-1",
    "train.optim=adamw_torch_4bit",
])  # fmt: skip
def test_an_overwrite_that_cannot_start_leaves_the_earlier_run_as_it_was(
    place: Place, finished: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(finished)
    assert main([*place.training("demo_dpo", finished, *SHORT, mistake), "--overwrite"]) in (2, 3)
    assert "Traceback" not in capsys.readouterr().err
    assert fingerprint(finished) == before


def test_an_overwrite_that_starts_replaces_everything(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(place.training("demo_dpo", run, *SHORT, "train.save_steps=1")) == 0
    assert main([*place.training("demo_dpo", run, *SHORT, "train.max_steps=1"), "--overwrite"]) == 0
    assert steps(run) == [1]
    assert not in_order(run / "checkpoints")


def test_a_run_never_overwrites_what_it_reads(place: Place, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "pairs.jsonl").write_text(place.world.pairs.read_text())
    before = fingerprint(finished)
    inside = {
        "model.path": finished / "model",
        "data.train": finished / "pairs.jsonl",
        "data.root": finished,
        "data.eval": finished / "pairs.jsonl",
    }
    for key, value in inside.items():
        assert main([*place.training("demo_dpo", finished, *SHORT, f"{key}={value}"), "--overwrite"]) == 2
        err = capsys.readouterr().err
        assert "--overwrite would delete what this run reads" in err
        assert str(value) in err
    assert fingerprint(finished) == before


@pytest.mark.parametrize("content", ['{"name": "my extension"}', "{}", '{"state": "complete"}', '{"mmpref": "1"}'])
def test_a_folder_with_a_manifest_of_something_else_is_not_a_run(
    place: Place, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "extension"
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    (folder / "thesis.tex").write_text("years of work")
    assert main([*place.training("demo_dpo", folder, *SHORT), "--overwrite"]) == 2
    assert "is not empty and is not a run folder" in capsys.readouterr().err
    assert (folder / "thesis.tex").read_text() == "years of work"


# ---- resuming -------------------------------------------------------------------------------------------------


def test_a_resume_without_a_checkpoint_starts_again_and_repeats_no_line(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    evaluated = [change for change in SHORT if change != "data.eval=[]"]
    assert main(place.training("demo_dpo", run, *evaluated)) == 0
    whole = (run / "metrics.jsonl").read_text().splitlines()
    RunDir(run).set_state("running")  # as a kill just before the end leaves it: the model is there, its state is not
    assert main([*place.training("demo_dpo", run, *evaluated), "--resume"]) == 0
    again = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in again] == [json.loads(line)["step"] for line in whole]
    assert steps(run) == [1, 2]


@pytest.mark.parametrize(("change", "code"), [
    ("train.learning_rate=1e-4", 6), ("data.train=/nowhere.jsonl", 2), ("model.path=/nowhere/at/all", 2),
])  # fmt: skip
def test_a_refused_resume_changes_nothing(place: Place, tmp_path: Path, change: str, code: int) -> None:
    run = tmp_path / "run"
    arguments = place.training("demo_dpo", run, *SHORT, "train.save_steps=1")
    assert main(arguments) == 0
    RunDir(run).set_state("stopped")
    before = fingerprint(run)
    assert main([*arguments, change, "--resume"]) == code
    assert fingerprint(run) == before


# ---- a full disk ----------------------------------------------------------------------------------------------


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """Files end at ``limit`` bytes, as they do where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_at_the_last_save_ends_with_code_6_and_a_checkpoint_to_resume_from(
    place: Place, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoRA with a trained projector: the checkpoint is small, and the whole model does not fit."""
    run = tmp_path / "run"
    lora = ("adapter={kind: lora, rank: 2}", "tune={language: lora}")
    arguments = place.training("demo_dpo", run, *SHORT, *lora)
    import mmpref.training.trainer.checkpointer as module

    def fills_the_disk(*given: object, **named: object) -> None:
        with largest_file(1000):
            real(*given, **named)  # type: ignore[arg-type]

    real = module.save_model  # type: ignore[attr-defined]  # the name that is patched
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_model", fills_the_disk)
        assert main(arguments) == 6
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "could not be written" in err
    assert "step-2: free disk space and go on with --resume" in " ".join(err.split())
    assert RunDir(run).manifest()["state"] == "failed"
    assert not (run / "model").exists()
    verify(run / "checkpoints" / "step-2")
    assert main([*arguments, "--resume"]) == 0
    assert (run / "model" / "adapter_model.safetensors").is_file()
    assert steps(run) == [1, 2]


def test_a_disk_that_is_full_from_the_second_checkpoint_on_keeps_the_first(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmpref.training.trainer.checkpointer as module

    real, calls = module.save_trained, []  # type: ignore[attr-defined]  # the name that is patched

    def save(model: torch.nn.Module, file: Path) -> None:
        calls.append(file)
        with largest_file(1000 if len(calls) > 1 else resource.RLIM_INFINITY):
            real(model, file)

    run = tmp_path / "run"
    arguments = place.training("demo_dpo", run, *SHORT, "train.save_steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_trained", save)
        assert main(arguments) == 6
    assert "Traceback" not in capsys.readouterr().err
    verify(run / "checkpoints" / "step-1")
    assert [folder.name for folder in in_order(run / "checkpoints")] == ["step-1"]
    assert [entry.name for entry in (run / "checkpoints").iterdir()] == ["step-1"]
    assert main([*arguments, "--resume"]) == 0
    assert steps(run) == [1, 2]


# ---- signals outside the steps --------------------------------------------------------------------------------


def test_sigterm_while_the_final_evaluation_runs_leaves_a_checkpoint_and_an_honest_state(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mmpref.training.trainer.trainer import PreferenceTrainer

    real = PreferenceTrainer.get_eval_dataloader

    def stop_at_the_end(self: PreferenceTrainer, pairs: object) -> object:
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return real(self, pairs)

    evaluated = [change for change in SHORT if change != "data.eval=[]"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = place.training("demo_dpo", run, *evaluated)
    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "get_eval_dataloader", stop_at_the_end)
        assert main(arguments) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert RunDir(run).manifest()["state"] == "stopped"
    assert main([*arguments, "--resume"]) == 0
    assert main(place.training("demo_dpo", whole, *evaluated)) == 0
    assert read_pair_log(RunDir(run).eval_pairs_file) == read_pair_log(RunDir(whole).eval_pairs_file)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_sigterm_while_the_model_loads_sets_the_state_to_stopped(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "mmpref", *place.training("demo_dpo", run, *SHORT, "train.max_steps=100000")],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not (run / "manifest.json").is_file():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (143, False), err
    assert RunDir(run).manifest()["state"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_beginning_a_run_waits_until_it_is_begun(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    real = Claim.create

    def create(self: Claim) -> RunDir:
        run = real(self)
        signal.raise_signal(number)  # the manifest says "running", and nobody knows of it yet
        return run

    monkeypatch.setattr(Claim, "create", create)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        assert main(place.training("demo_dpo", tmp_path / "run", *SHORT)) == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    assert RunDir(tmp_path / "run").manifest()["state"] == "stopped"


# ---- values that transformers would trip over -----------------------------------------------------------------


@pytest.mark.parametrize(("changes", "message"), [
    (["seed=-1"], "'seed'"),
    (["train.max_steps=0"], "'train.max_steps'"),
    (["train.max_steps=-7"], "'train.max_steps'"),
    (["train.learning_rate=1e999"], "'train.learning_rate'"),
    (["train.num_train_epochs=1e999"], "'train.num_train_epochs'"),
    (["train.report_to=[mlflow]"], "train.report_to: mlflow is not installed: pip install mlflow"),
    (["train.report_to=[tensorbord]"], "no tracker 'tensorbord'; known: "),
    (["train.lr_scheduler_kwargs={nonsense: 1}"], "train.lr_scheduler_type 'cosine' does not go with"),
    (["train.lr_scheduler_type=polynomial", "train.lr_scheduler_kwargs={lr_end: 1}"], "does not go with"),
    (["train.optim=adamw"], "transformers refuses these settings"),
    (["train.optim=adamw_torch_4bit"], "transformers refuses these settings"),
    (["train.extra={dataloader_prefetch_factor: 2}"], "transformers refuses these settings"),
    (["train.extra={log_level: shouting}"], "transformers refuses these settings"),
    (["train.eval_steps=2"], "train.eval_steps would do nothing: it belongs to held-out pairs"),
    (["train.extra={adam_epsilon: small}"], "'train.extra.adam_epsilon' must be float, got 'small'"),
    (["train.extra={dataloader_persistent_workers: 1}"],
     "'train.extra.dataloader_persistent_workers' must be bool, got 1"),
    (["train.extra={label_smoothing_factor: 0.1}"], "is not for this trainer: set loss.label_smoothing"),
    (["train.extra={include_num_input_tokens_seen: true}"], "is not for this trainer"),
    (["train.extra={load_best_model_at_end: true}"], "is not for this trainer"),
])  # fmt: skip
def test_a_value_that_cannot_be_used_is_named_before_training(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    assert main(place.training("demo_dpo", tmp_path / "run", *SHORT, *changes)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
