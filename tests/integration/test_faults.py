"""A loss that is not finite, memory that runs out, an objective that goes wrong quietly: what the user is left with."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mmpref.training.trainer.trainer as trainer_module
from mmpref.cli.main import main
from mmpref.processing import PairCollator
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import InfiniteGradient, Place

FOUR = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2", "train.learning_rate=1e-2",
        "train.warmup_steps=0", "train.logging_steps=1", "train.max_steps=4", "data.eval=[]", "train.optim=sgd",
        "train.lr_scheduler_type=constant")  # fmt: skip
Patch = Callable[[int, Any], Any]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Patch], None]:
    """Lets a function change or replace what the policy gives at the n-th micro-batch, counted from 1."""

    def install(change: Patch) -> None:
        real, calls = trainer_module.pair_logps, [0]  # type: ignore[attr-defined]  # the name that is patched

        def pair_logps(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            return change(calls[0], real(*args, **kwargs))

        monkeypatch.setattr(trainer_module, "pair_logps", pair_logps)

    return install


def nan_at(*calls: int) -> Patch:
    def change(call: int, logps: Any) -> Any:
        if call in calls:
            import dataclasses

            return dataclasses.replace(logps, chosen=logps.chosen * float("nan"))
        return logps

    return change


def test_a_loss_that_is_not_finite_stops_with_code_4_and_a_dump_of_its_update(
    place: Place, tmp_path: Path, spoiled: Callable[[Patch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled(nan_at(4))  # the second half of the second update
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR)) == 4
    err = " ".join(capsys.readouterr().err.split())
    assert "step 2" in err
    assert "nothing was updated" in err
    assert "train.skip_nonfinite_steps=N" in err
    dump = json.loads((tmp_path / "run" / "faults" / "nonfinite-step-2.json").read_text())
    assert dump["step"] == 2
    assert dump["learning_rate"] == 1e-2
    assert len(dump["pairs"]) == 8
    assert len({pair["id"] for pair in dump["pairs"]}) == 8
    assert [pair["logps/chosen"] == "nan" for pair in dump["pairs"]] == [False] * 4 + [True] * 4
    assert all(pair["batch_tokens"] > 0 and pair["batch_pixels"] > 0 for pair in dump["pairs"])
    assert RunDir(tmp_path / "run").manifest()["state"] == "failed"


def test_an_update_that_is_left_out_moves_no_weight(
    place: Place, tmp_path: Path, spoiled: Callable[[Patch], None], caplog: pytest.LogCaptureFixture
) -> None:
    def saved(name: str, *changes: str) -> dict[str, torch.Tensor]:
        keep = ("train.save_steps=1", "train.save_total_limit=null", *changes)
        assert main(place.training("demo_dpo", tmp_path / name, *FOUR, *keep)) == 0
        steps = tmp_path / name / "checkpoints"
        return {step: load_file(steps / f"step-{step}" / "trained.safetensors") for step in (1, 2, 3)}  # type: ignore[return-value]

    spoiled(nan_at(3))
    with caplog.at_level(logging.WARNING):
        weights: Any = saved("run", "train.skip_nonfinite_steps=1")
    assert "this update was left out" in caplog.text
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    assert any(not torch.equal(weights[2][name], weights[3][name]) for name in weights[1])
    assert (tmp_path / "run" / "faults" / "nonfinite-step-2.json").is_file()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4]


def test_more_of_them_than_may_be_left_out_stop_the_run(
    place: Place, tmp_path: Path, spoiled: Callable[[Patch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled(nan_at(3, 5))
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR, "train.skip_nonfinite_steps=1")) == 4
    assert "(1 updates were left out before)" in " ".join(capsys.readouterr().err.split())


def test_a_gradient_that_is_not_finite_behind_a_finite_loss_is_caught_too(
    place: Place, tmp_path: Path, spoiled: Callable[[Patch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(call: int, logps: Any) -> Any:
        import dataclasses

        return dataclasses.replace(logps, chosen=InfiniteGradient.apply(logps.chosen)) if call == 3 else logps

    spoiled(change)
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR)) == 4
    dump = json.loads((tmp_path / "run" / "faults" / "nonfinite-step-2.json").read_text())
    assert dump["gradients"]["not_finite"] > 0
    assert dump["gradients"]["first"]
    assert "gradient is not finite" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "changes", "helps"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), (),
     ["train.gradient_checkpointing=true",
      "train.per_device_train_batch_size=2 train.gradient_accumulation_steps=4 (the same update)"]),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
     ("train.gradient_checkpointing=true",),
     ["train.per_device_train_batch_size=2 train.gradient_accumulation_steps=4", "processing.max_length"]),
])  # fmt: skip
def test_memory_that_runs_out_is_told_with_pairs_sizes_and_two_keys(
    place: Place,
    tmp_path: Path,
    spoiled: Callable[[Patch], None],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    changes: tuple[str, ...],
    helps: list[str],
) -> None:
    def change(call: int, logps: Any) -> Any:
        if call == 3:
            raise error
        return logps

    spoiled(change)
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR, *changes)) == 5
    err = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in err
    assert "out of memory while training on pairs pair-" in err
    assert "(4 in the batch, " in err
    assert " tokens, " in err
    assert " pixels), step 2; what would help most: " in err
    for key in helps:
        assert key in err
    assert err.count(", then ") == 1


def test_memory_that_runs_out_in_the_optimizer_names_its_keys(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR, "train.optim=adamw_torch")) == 5
    err = " ".join(capsys.readouterr().err.split())
    assert "while updating the weights, step 1; what would help most: adapter.kind=lora" in err
    assert "train.optim=adamw_8bit" in err


@pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="workers do not inherit the patch")
def test_a_loader_worker_that_is_killed_is_told_in_one_line(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = PairCollator.rows

    def rows(self: PairCollator, pairs: Any) -> Any:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, pairs)

    monkeypatch.setattr(PairCollator, "rows", rows)
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR, "train.dataloader_num_workers=1")) == 3
    err = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in err
    assert "a loader worker ended while training, step 1 (DataLoader worker" in err
    assert "lower train.dataloader_num_workers" in err


def torch_runs_out() -> None:
    """torch's own error, from its own allocator."""
    torch.empty(2**60, dtype=torch.uint8)


def cuda_runs_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


WHERE_IT_RUNS_OUT = [
    ("mmpref.training.trainer.preflight.answer_logps", (), "checking pairs pair-",
     "adapter.kind=qlora with tune.language=lora (weights in 4 bits), then processing.max_length"),
    ("mmpref.training.trainer.trainer.pair_logps", ("EVAL", "preflight=false"), "evaluating pairs pair-",
     "train.per_device_eval_batch_size=2, then adapter.kind=qlora"),
    ("mmpref.training.run.reference_entries.answer_logps", ("reference.kind=cache",),
     "computing reference log-probs of pairs pair-",
     "adapter.kind=qlora with tune.language=lora (weights in 4 bits), then processing.max_length"),
    ("mmpref.training.run.setup.load", (), "loading ",
     "adapter.kind=qlora with tune.language=lora (weights in 4 bits)"),
    ("mmpref.training.run.setup.choose_reference", (), "making the reference",
     "reference.kind=cache, then adapter.kind=qlora"),
    ("transformers.Trainer.__init__", (), "moving ", "adapter.kind=qlora"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("runs_out", "place_of_it", "changes", "doing", "helps"),
    [  # of each place one of the two errors by default, in turn
        pytest.param(error, *where, marks=[pytest.mark.slow] if (number + both) % 2 else [])
        for number, where in enumerate(WHERE_IT_RUNS_OUT)
        for both, error in enumerate((torch_runs_out, cuda_runs_out))
    ],
)
def test_memory_that_runs_out_before_the_first_step_is_told_as_in_training(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs_out: Callable[[], None],
    place_of_it: str,
    changes: tuple[str, ...],
    doing: str,
    helps: str,
) -> None:
    monkeypatch.setattr(place_of_it, lambda *_, **__: runs_out())
    changes = tuple(f"data.eval={place.world.pairs_heldout}" if change == "EVAL" else change for change in changes)
    many = ("train.per_device_eval_batch_size=4", *changes)
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR, *many)) == 5
    err = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in err
    assert f"out of memory while {doing}" in err
    assert helps in err
    if "pairs" in doing:
        assert " in the batch, " in err
        assert " pixels)" in err


def test_memory_that_runs_out_in_the_check_of_gradients_names_what_saves_activations(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mmpref.training.trainer.preflight as preflight

    real = preflight.answer_sums  # type: ignore[attr-defined]  # the name that is patched

    def with_gradients(*args: Any) -> Any:
        if torch.is_grad_enabled():
            torch_runs_out()
        return real(*args)

    monkeypatch.setattr(preflight, "answer_sums", with_gradients)
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR)) == 5
    err = " ".join(capsys.readouterr().err.split())
    assert "out of memory while checking pairs pair-" in err
    assert "(1 in the batch, " in err
    assert "what would help most: train.gradient_checkpointing=true" in err


def test_a_reference_that_does_not_fit_eight_answers_at_once_is_computed_answer_by_answer(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmpref.training.run.reference_entries as entries

    real, sizes = entries.answer_logps, []  # type: ignore[attr-defined]  # the name that is patched

    def only_one(model: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 1:
            torch_runs_out()
        return real(model, batch)

    cached = ("reference.kind=cache", "train.max_steps=1")
    assert main(place.training("demo_dpo", tmp_path / "whole", *FOUR, *cached)) == 0
    monkeypatch.setattr(entries, "answer_logps", only_one)
    assert main(place.training("demo_dpo", tmp_path / "parts", *FOUR, *cached)) == 0
    assert sizes.count(8) == 12
    assert sizes.count(1) == 96
    one, other = (
        {key: value for file in (tmp_path / f"{name}.reference").glob("*.safetensors")
         for key, value in load_file(file).items()}
        for name in ("whole", "parts")
    )  # fmt: skip
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, atol=1e-5, rtol=1e-5)


def test_an_error_that_is_not_about_memory_is_not_called_so(
    place: Place, tmp_path: Path, spoiled: Callable[[Patch], None]
) -> None:
    def change(call: int, logps: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    spoiled(change)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(place.training("demo_dpo", tmp_path / "run", *FOUR))


def test_a_collapse_is_an_event_in_the_metrics_and_a_line_for_the_user(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("train.optim=adamw_torch", "train.learning_rate=3e-2", "train.max_steps=8", "loss.beta=20")
    assert main(place.training("demo_dpo", tmp_path / "run", *FOUR, *changes)) == 0
    (event,) = (line for line in lines(tmp_path / "run") if line.get("event") == "alarm/chosen_falls")
    assert event["step"] >= 3
    assert "nats a token below the reference's" in event["message"]
    assert f"step {event['step']}: the chosen answers' log-prob is" in " ".join(capsys.readouterr().out.split())
