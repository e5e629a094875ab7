"""An update with a loss or gradient that is not finite is left out on the device, and nobody can tell when it was read.

Every run here is made twice: once as it is, where the optimizer reads the verdict and the host does so later, and once
with the host waiting for the verdict before each update.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainingArguments

import mmpref.training.trainer.nonfinite_policy as policy_module
from mmpref.cli.main import main
from mmpref.errors import DataError, NonFiniteError
from mmpref.losses.objective import Objective
from mmpref.training import PreferenceTrainer, TrainerOptions
from mmpref.training.trainer.metrics import JsonlLogger
from mmpref.training.trainer.nonfinite import UpdateGuard
from tests.integration.conftest import InfiniteGradient, Place
from tests.tiers import corners

STEPS, MICROS = 4, 2
OF_TIME = ("runtime", "per_second", "_time")


Bad = dict[int, str]
"""Number of a micro-batch, from 1 -> what is wrong with it: its ``loss``, its ``gradient``, or it is ``refused``."""


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Bad], None]]:
    """Makes micro-batches bad, counting from the call on; nothing else about the objective changes."""
    real = Objective.__call__

    def install(bad: Bad) -> None:
        calls = [0]

        def call(self: Objective, logps: Any, **options: Any) -> Any:
            if not torch.is_grad_enabled():
                return real(self, logps, **options)
            calls[0] += 1
            kind = bad.get(calls[0])
            if kind == "raises":
                raise DataError("a row that cannot be read")
            if kind == "refused":
                logps = dataclasses.replace(logps, chosen=logps.chosen * float("nan"))
            output = real(self, logps, **options)
            if kind == "loss":  # of one pair
                factor = torch.ones_like(output.per_pair)
                factor[1] = float("nan")
                return dataclasses.replace(output, per_pair=output.per_pair * factor)
            if kind == "gradient":
                return dataclasses.replace(output, per_pair=InfiniteGradient.apply(output.per_pair))
            return output

        monkeypatch.setattr(Objective, "__call__", call)

    yield install
    monkeypatch.setattr(Objective, "__call__", real)


@pytest.fixture(scope="module")
def pairs(place: Place) -> Path:
    file = place.world.root / "sixteen.jsonl"
    file.write_text("\n".join(place.world.pairs.read_text().splitlines()[:16]) + "\n")
    return file


@dataclass
class Seen:
    """What a run leaves behind."""

    error: str | None
    warnings: list[str]
    skipped: list[int]
    dumps: dict[str, bytes]
    lines: list[dict[str, Any]]
    checkpoints: dict[str, dict[str, bytes]]
    end: dict[str, bytes]
    """A checkpoint made after the run, or after what stopped it."""


def trainer_for(place: Place, pairs: Path, folder: Path, skip: int, **options: Any) -> PreferenceTrainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": MICROS, "max_steps": STEPS,
        "learning_rate": 1e-2, "warmup_steps": 1, "lr_scheduler_type": "linear", "logging_steps": 100,
        "save_strategy": "no", "optim": "adamw_torch_fused", "weight_decay": 0.1, "use_cpu": True, "seed": 3,
        "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    held_out = place.world.pairs_heldout if "eval_strategy" in options else ()
    callbacks = [JsonlLogger(folder / "metrics.jsonl"), *options.pop("callbacks", ())]
    folder.mkdir(parents=True, exist_ok=True)
    return PreferenceTrainer(
        str(place.model), TrainingArguments(str(folder), **{**settings, **options}), objective={"name": "dpo"},
        train_pairs=pairs, eval_pairs=held_out,
        options=TrainerOptions(skip_nonfinite_steps=skip, callbacks=callbacks),
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    """The content of a checkpoint; what depends on the clock or on this process is left out."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name == "trainer_state.json":
            state = json.loads(path.read_text())
            state["log_history"] = [timeless(line) for line in state["log_history"]]
            del state["stateful_callbacks"], state["total_flos"]  # the last is 0 or 0.0: not counted
            found[path.name] = json.dumps(state).encode()
        elif path.name == "metrics.jsonl":
            found[path.name] = json.dumps([timeless(json.loads(line)) for line in path.open()]).encode()
        elif path.suffix != ".json":
            found[path.name] = path.read_bytes()
    assert {"trained.safetensors", "optimizer.pt", "scheduler.pt", "pairs.parquet", "trainer_state.json"} <= set(found)
    return found


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if not any(word in key for word in OF_TIME)}


def run(
    place: Place, pairs: Path, folder: Path, caplog: pytest.LogCaptureFixture, *, skip: int, resume: str | None = None,
    **options: Any,
) -> Seen:  # fmt: skip
    trainer = trainer_for(place, pairs, folder, skip, **options)
    error = None
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="mmpref.training.trainer.nonfinite"):
        try:
            trainer.train(resume_from_checkpoint=resume)
        except NonFiniteError as err:
            error = str(err).replace(str(folder), "FOLDER")
    messages = [record.getMessage() for record in caplog.records if record.name == "mmpref.training.trainer.nonfinite"]
    metrics, saved = folder / "metrics.jsonl", sorted(folder.glob("step-*"))
    return Seen(
        error,
        [message.replace(str(folder), "FOLDER") for message in messages],
        list(trainer.skipped_steps),
        {path.name: path.read_bytes() for path in sorted((folder / "faults").glob("*"))},
        [timeless(json.loads(line)) for line in metrics.open()] if metrics.is_file() else [],
        {path.name: files(path) for path in saved},
        files(trainer.checkpoint_here()),
    )


@pytest.fixture
def both(
    place: Place, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    spoiled: Callable[[Bad], None],
) -> Callable[..., Seen]:  # fmt: skip
    """The same run with the verdict read later and read at once, which must not differ; what it leaves behind."""
    runs = [0]

    def make(bad: Bad, skip: int, resume: str | None = None, **options: Any) -> Seen:
        runs[0] += 1
        seen, given = [], []
        real = UpdateGuard.leave_to

        def leave_to(self: UpdateGuard, *args: Any) -> None:
            given.append(1)
            real(self, *args)

        for mode in ("later", "at_once"):
            with monkeypatch.context() as patch:
                patch.setattr(UpdateGuard, "leave_to", leave_to)
                if mode == "at_once":
                    patch.setattr(policy_module, "can_leave_out", lambda *_: False)
                given.clear()
                spoiled(bad)
                folder = tmp_path / mode / str(runs[0])
                checkpoint = None if resume is None else str(tmp_path / mode / resume)
                seen.append(run(place, pairs, folder, caplog, skip=skip, resume=checkpoint, **options))
                assert bool(given) == (mode == "later")
        later, at_once = seen
        for field in dataclasses.fields(Seen):
            assert getattr(later, field.name) == getattr(at_once, field.name), field.name
        return later

    return make


FIRST, MIDDLE, LAST = {2: "loss"}, {3: "gradient", 4: "loss"}, {2 * STEPS: "gradient"}


@pytest.mark.parametrize(
    ("which", "skip", "max_grad_norm"),
    corners(
        product(("first", "middle", "last"), (0, 1), (0.0, 1.0)),
        ("first", 1, 1.0), ("middle", 1, 0.0), ("last", 0, 0.0),
    ),
)  # fmt: skip
def test_a_run_is_the_same_to_the_byte_whenever_the_verdict_is_read(
    both: Callable[..., Seen], which: str, skip: int, max_grad_norm: float
) -> None:
    bad, step = {"first": (FIRST, 1), "middle": (MIDDLE, 2), "last": (LAST, STEPS)}[which]
    seen = both(bad, skip, max_grad_norm=max_grad_norm)
    (dump,) = seen.dumps.items()
    assert dump[0] == f"nonfinite-step-{step}.json"
    facts = json.loads(dump[1])
    assert facts["step"] == step
    assert len(facts["pairs"]) == 4
    assert len({pair["id"] for pair in facts["pairs"]}) == 4
    if skip:
        assert (seen.error, seen.skipped) == (None, [step])
        assert len(seen.warnings) == 1
        assert json.loads(seen.end["trainer_state.json"])["global_step"] == STEPS
    else:
        assert seen.error is not None
        assert f"step {step}, pairs {', '.join(pair['id'] for pair in facts['pairs'])}: the loss or" in seen.error
        assert json.loads(seen.end["trainer_state.json"])["global_step"] == step - 1


LOOKS: dict[str, dict[str, Any]] = {
    "line": {"logging_steps": 2},
    "checkpoint": {"save_strategy": "steps", "save_steps": 1},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 4},
    "epoch": {"logging_strategy": "epoch", "save_strategy": "epoch"},
}


@pytest.mark.parametrize(
    ("look", "skip"),
    corners(product(LOOKS, (0, 1)), ("line", 0), ("checkpoint", 1), ("evaluation", 0)),
)
def test_whoever_looks_right_at_a_bad_update_sees_what_they_would_have_seen(
    both: Callable[..., Seen], look: str, skip: int
) -> None:
    seen = both({4: "loss"}, skip, **LOOKS[look])
    of_step = [line for line in seen.lines if line["step"] == 2]
    if look in ("line", "evaluation"):
        assert bool(of_step) == bool(skip)  # no line of an update that stops the run
    if look == "line" and skip:
        assert of_step[0]["loss"] == 0.0  # as it was: the sum since the last line is gone with it
        assert "grad_norm" not in of_step[0]
    if look == "checkpoint":
        assert sorted(seen.checkpoints) == [f"step-{step}" for step in (range(1, STEPS + 1) if skip else [1])]


def test_a_first_update_that_is_left_out_leaves_no_state_behind(both: Callable[..., Seen], tmp_path: Path) -> None:
    both(FIRST, 1, save_strategy="steps", save_steps=1)
    states = [
        torch.load(tmp_path / "later" / "1" / f"step-{step}" / "optimizer.pt", weights_only=True)["state"]
        for step in (1, 2)
    ]
    assert states[0] == {}
    assert {float(state["step"]) for state in states[1].values()} == {1.0}


def test_a_run_that_goes_on_from_the_checkpoint_behind_a_bad_update_is_the_same(both: Callable[..., Seen]) -> None:
    whole = both(MIDDLE, 1, save_strategy="steps", save_steps=2)
    resumed = both({}, 0, resume="1/step-2")
    for name in ("trained.safetensors", "optimizer.pt", "scheduler.pt"):
        assert resumed.end[name] == whole.end[name]


@pytest.mark.parametrize(("bad", "skip", "stops"), [
    ({3: "loss", 6: "gradient"}, 1, 3),  # one after the other: the second stops the run
    ({3: "loss", 5: "refused"}, 1, 3),  # the second is known on the host before the first was read
    pytest.param({3: "refused", 6: "gradient"}, 1, 3, marks=pytest.mark.slow),
    pytest.param({3: "refused", 6: "gradient", 7: "loss"}, 3, None, marks=pytest.mark.slow),
    ({1: "loss", 3: "gradient", 5: "loss", 8: "loss"}, 3, 4),
    pytest.param({1: "refused", 2: "loss", 5: "gradient"}, 1, 3, marks=pytest.mark.slow),
])  # fmt: skip
def test_bad_updates_are_counted_in_their_order(
    both: Callable[..., Seen], bad: Bad, skip: int, stops: int | None
) -> None:
    seen = both(bad, skip, max_grad_norm=1.0, logging_steps=3)
    steps = sorted({(micro + 1) // 2 for micro in bad})
    assert list(seen.dumps) == [f"nonfinite-step-{step}.json" for step in steps]
    assert seen.skipped == [step for step in steps if step != stops]
    if stops is None:
        assert seen.error is None
    else:
        assert seen.error is not None
        assert seen.error.startswith(f"step {stops}, pairs ")
        assert f"({skip} updates were left out before)" in seen.error


def test_the_dump_names_the_weights_whose_gradient_was_bad_and_not_those_that_clipping_spoiled(
    both: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    real = UpdateGuard.clip

    def clip(self: UpdateGuard, model: Any, max_norm: float) -> torch.Tensor:
        if self._loss is not None and bool(torch.isnan(self._loss)):
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(0.5)
            dict(model.named_parameters())[name].grad[0, 0] = float("nan")
        return real(self, model, max_norm)

    monkeypatch.setattr(UpdateGuard, "clip", clip)
    seen = both({3: "loss"}, 1, max_grad_norm=1.0)
    found = json.loads(seen.dumps["nonfinite-step-2.json"])["gradients"]
    assert (found["not_finite"], found["first"]) == (1, [name])
    assert found["largest_finite_norm"] > 0.5


# ---- what the host does not do ------------------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Notes every number that the host reads from a tensor, where in memory it lay, and what happened around it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.verdicts: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.events.append(args[0].data_ptr())
        return func(*args, **(kwargs or {}))

    def between(self, start: str, end: str) -> list[list[int]]:
        """What was read between each pair of events."""
        windows: list[list[int]] = []
        inside = False
        for event in self.events:
            if event == start:
                windows, inside = [*windows, []], True
            elif event == end:
                inside = False
            elif inside and isinstance(event, int):
                windows[-1].append(event)
        return windows


@pytest.mark.parametrize(
    ("mode", "max_grad_norm"),
    corners(product(("later", "at_once"), (0.0, 1.0)), ("later", 0.0), ("later", 1.0), ("at_once", 1.0)),
)
def test_the_host_reads_nothing_of_an_update_before_it_is_made(
    place: Place, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, max_grad_norm: float
) -> None:
    reads = Reads()
    trainer = trainer_for(place, pairs, tmp_path, 0, max_grad_norm=max_grad_norm)
    if mode == "at_once":
        monkeypatch.setattr(policy_module, "can_leave_out", lambda *_: False)
    step = trainer.training_step

    def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = step(*args, **kwargs)
        reads.events.append("computed")
        return loss

    class Watch(TrainerCallback):
        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            if (verdict := getattr(trainer.optimizer.optimizer, "found_inf", None)) is not None:
                reads.verdicts.append(verdict)  # kept, so that no other tensor comes to lie where it lay
            reads.events.append("made")

    monkeypatch.setattr(trainer, "training_step", training_step)
    trainer.add_callback(Watch())
    with reads:
        trainer.train()
    windows = reads.between("computed", "made")[MICROS - 1 :: MICROS]  # behind the last micro-batch of each update
    assert len(windows) == STEPS
    if mode == "at_once":
        assert all(windows)
        assert reads.verdicts == []
        return
    assert len(reads.verdicts) == STEPS
    assert windows == [[], *([verdict.data_ptr()] for verdict in reads.verdicts[:-1])]


# ---- ways out of a run --------------------------------------------------------------------------------------------


def test_an_update_that_was_bad_comes_before_what_went_wrong_behind_it(
    place: Place, pairs: Path, tmp_path: Path, spoiled: Callable[[Bad], None]
) -> None:
    spoiled({3: "loss", 5: "raises"})
    with pytest.raises(NonFiniteError, match="step 2, pairs ") as raised:
        trainer_for(place, pairs, tmp_path / "stops", 0).train()
    assert isinstance(raised.value.__context__, DataError)
    spoiled({3: "loss", 5: "raises"})
    trainer = trainer_for(place, pairs, tmp_path / "skips", 1)
    with pytest.raises(DataError, match="cannot be read"):
        trainer.train()
    assert trainer.skipped_steps == [2]
    assert (tmp_path / "skips" / "faults" / "nonfinite-step-2.json").is_file()


class _Signal(TrainerCallback):
    """Sends SIGTERM while a step is made."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("skip", [0, 1])
def test_a_signal_at_a_bad_update_stops_as_it_would_have(both: Callable[..., Seen], skip: int) -> None:
    seen = both({4: "loss"}, skip, callbacks=[_Signal(2)])
    assert sorted(seen.checkpoints) == (["step-2"] if skip else [])
    assert json.loads(seen.end["trainer_state.json"])["global_step"] == (2 if skip else 1)


@pytest.mark.parametrize("looked", [lambda t: t.skipped_steps, lambda t: t.evaluate(), lambda t: t.log({"of": 1.0})])
def test_a_callback_that_looks_is_told_at_once(
    place: Place, pairs: Path, tmp_path: Path, spoiled: Callable[[Bad], None], looked: Callable[[Any], Any]
) -> None:
    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                assert not (tmp_path / "faults").exists()
                looked(trainer)
                assert (tmp_path / "faults" / "nonfinite-step-2.json").is_file()

    spoiled({3: "loss"})
    trainer = trainer_for(place, pairs, tmp_path, 1, eval_strategy="no", callbacks=[Look()])
    trainer.train()
    assert trainer.skipped_steps == [2]


def test_a_run_that_is_stopped_says_the_same_and_ends_with_the_same_code(
    place: Place, tmp_path: Path, spoiled: Callable[[Bad], None], capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2", "train.max_steps=4",
               "train.logging_steps=100", "data.eval=[]", "preflight=false",
               "train.optim=adamw_torch_fused")  # fmt: skip
    spoiled({4: "loss"})
    assert main(place.training("demo_dpo", tmp_path / "run", *changes)) == 4
    err = " ".join(capsys.readouterr().err.split())
    assert "step 2, pairs pair-" in err
    assert "the loss or the gradient is not finite; nothing was updated." in err


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_other_optimizers_are_asked_before_each_update(
    place: Place, pairs: Path, tmp_path: Path, spoiled: Callable[[Bad], None], optim: str
) -> None:
    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                assert (tmp_path / "faults" / "nonfinite-step-2.json").is_file()

    spoiled({3: "loss"})
    trainer = trainer_for(place, pairs, tmp_path, 1, optim=optim, callbacks=[Look()])
    trainer.train()
    assert trainer.skipped_steps == [2]


def test_weights_keep_what_they_were_and_learn_again_behind_a_bad_update(
    place: Place, pairs: Path, tmp_path: Path, spoiled: Callable[[Bad], None]
) -> None:
    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]))

    weights: list[torch.Tensor] = []
    spoiled({4: "gradient"})
    trainer = trainer_for(place, pairs, tmp_path, 1, callbacks=[Keep()])
    trainer.train()
    same = [torch.equal(one, two) for one, two in itertools.pairwise(weights)]
    assert same == [True, False, False]
    assert bool(torch.isfinite(weights[-1]).all())
