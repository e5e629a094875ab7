"""kill -9 at any change of the disk, then on: metrics, pairs and weights are those of an undisturbed run."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from mmpref.rundir.content import LOCK
from mmpref.rundir.folder import RunDir, is_run_folder
from tests.integration.conftest import Place
from tests.integration.killing import KilledAt, assert_same_run, in_child
from tests.tiers import corners

MOMENTS = 20
STEPS = (
    "train.per_device_train_batch_size=8", "train.learning_rate=1e-3", "train.warmup_steps=2", "train.logging_steps=1",
    "train.max_steps=3", "train.save_steps=1", "train.save_total_limit=2",
)  # fmt: skip
LORA = ("adapter={kind: lora, rank: 4, dropout: 0.2}", "tune={language: lora, projector: full}")
MODELS: dict[str, tuple[str, ...]] = {
    "LoRA": (*STEPS, *LORA, "data.eval=[]"),
    "full": (*STEPS, "data.eval=[]"),
    "cached reference": (*STEPS, *LORA, "reference.kind=cache"),
    "evaluation on": (*STEPS, *LORA, "train.eval_steps=1"),
}
Whole = dict[str, tuple[Path, int]]


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """By model: an undisturbed run, and how often it changed the disk. Filled as the tests ask."""
    return {}


def undisturbed(whole: Whole, place: Place, root: Path, model: str) -> tuple[Path, int]:
    if model not in whole:
        folder, count = root / "run", root.parent / f"{root.name}.count"
        command = place.training("demo_dpo", folder, *MODELS[model])
        assert in_child(command, before=KilledAt(root, count_into=count)) == 0
        whole[model] = folder, int(count.read_text())
    return whole[model]


def killed_and_resumed(place: Place, root: Path, model: str, number: int, draw: random.Random | None = None) -> Path:
    """A run that dies at a change of the disk and goes on; with ``draw`` it may die again on its way."""
    run = root / "run"
    command = place.training("demo_dpo", run, *MODELS[model])
    assert in_child(command, before=KilledAt(root, number)) == -signal.SIGKILL
    for again in (draw.randint(1, 2 * number) if draw is not None and draw.random() < 0.5 else None, None):
        # before its first step a run takes its folder over without being asked, and so it does where it is no run yet
        begun = is_run_folder(run) and (RunDir(run).has_trained() or (draw is not None and draw.random() < 0.5))
        if begun and RunDir(run).manifest()["state"] == "complete":  # killed behind its end: only its lock is left
            assert in_child([*command, "--resume"]) == 2
            (run / LOCK).unlink(missing_ok=True)
            return run
        code = in_child([*command, "--resume"] if begun else command, before=KilledAt(root, again))
        if code == 0:
            return run
        assert code == -signal.SIGKILL
    raise AssertionError(f"change {number}: not at its end")


@pytest.mark.parametrize("part", corners([0.3, 0.85, 1.0], 0.85))
def test_a_run_killed_at_a_change_of_the_disk_goes_on_to_the_same_end(
    place: Place, whole: Whole, tmp_path_factory: pytest.TempPathFactory, part: float
) -> None:
    model = "evaluation on"
    folder, changes = undisturbed(whole, place, tmp_path_factory.mktemp("undisturbed"), model)
    number = max(1, round(part * changes))
    assert_same_run(killed_and_resumed(place, tmp_path_factory.mktemp("killed"), model, number), folder)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize("model", MODELS)
def test_twenty_moments_of_each_model(
    place: Place, whole: Whole, tmp_path_factory: pytest.TempPathFactory, model: str, moment: int
) -> None:
    """Each moment is drawn from its own twentieth of a run, so that none of its parts is left out."""
    folder, changes = undisturbed(whole, place, tmp_path_factory.mktemp("undisturbed"), model)
    draw = random.Random(f"{model} {moment}")
    number = 1 + int(changes * (moment + draw.random()) / MOMENTS)
    assert_same_run(killed_and_resumed(place, tmp_path_factory.mktemp("killed"), model, number, draw), folder)
