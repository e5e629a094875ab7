"""Where each tracker that transformers knows keeps its things: in the run folder, unless the user said otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from mmpref.training.run.trackers import FOLDERS, environment, tracked_in

NOTHING_HERE = {"azure_ml", "dagshub", "flyte", "kubeflow"}
"""They send all they get elsewhere."""
BY_ARGUMENT = {"codecarbon", "dvclive"}
"""Given a folder when they are made."""


def test_no_tracker_of_transformers_is_forgotten() -> None:
    assert set(INTEGRATION_TO_CALLBACK) == set(FOLDERS) | NOTHING_HERE | BY_ARGUMENT


@pytest.mark.parametrize(("name", "variable", "place"), [
    ("tensorboard", "TENSORBOARD_LOGGING_DIR", "{logs}/tensorboard"),
    ("wandb", "WANDB_DIR", "{logs}"),
    ("trackio", "TRACKIO_DIR", "{logs}/trackio"),
    ("comet_ml", "COMET_OFFLINE_DIRECTORY", "{logs}/comet"),
    ("mlflow", "MLFLOW_TRACKING_URI", "file://{logs}/mlruns"),
    ("neptune", "NEPTUNE_DATA_DIRECTORY", "{logs}/neptune"),
    ("clearml", "CLEARML_CACHE_DIR", "{logs}/clearml"),
    ("swanlab", "SWANLAB_LOG_DIR", "{logs}/swanlab"),
])  # fmt: skip
def test_each_is_told_by_its_own_variable(tmp_path: Path, name: str, variable: str, place: str) -> None:
    beside = {"MLFLOW_ALLOW_FILE_STORE": "true"} if name == "mlflow" else {}
    assert environment([name], tmp_path, {}) == {variable: place.format(logs=tmp_path), **beside}
    assert environment([name], tmp_path, {variable: "elsewhere"}) == {}


def test_a_relative_folder_is_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker may be asked from another folder."""
    monkeypatch.chdir(tmp_path)
    assert environment(["wandb"], Path("run/logs"), {}) == {"WANDB_DIR": str(tmp_path / "run/logs")}


def test_a_server_that_is_named_otherwise_stays(tmp_path: Path) -> None:
    assert environment(["mlflow"], tmp_path, {"MLFLOW_RUN_ID": "1"}) == {}
    assert environment(["clearml"], tmp_path, {"CLEARML_API_HOST": "https://clear.example"}) == {}


def test_the_environment_is_as_before_when_the_run_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", "mine")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    before = dict(os.environ)
    with tracked_in(["tensorboard", "wandb"], tmp_path):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
        assert os.environ["WANDB_DIR"] == "mine"
    assert dict(os.environ) == before
