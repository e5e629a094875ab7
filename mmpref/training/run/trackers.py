"""Trackers (``train.report_to``) write into ``logs/`` of the run folder what they keep on this machine.

Each has an environment variable for it (or an argument, where it has none); one that the user has set stays. Read in
transformers 5.17 and 5.23, whose ``integration_utils`` are the same in this; neither has a ``logging_dir`` any more.

Not here, as they keep nothing on this machine: azure_ml, dagshub, flyte and kubeflow; and codecarbon, which
transformers lets write into ``checkpoints/``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import Trainer

from mmpref.files.reading import without_links

FOLDERS = {
    "tensorboard": ("TENSORBOARD_LOGGING_DIR", "tensorboard"),
    "wandb": ("WANDB_DIR", ""),  # it makes wandb/ there
    "trackio": ("TRACKIO_DIR", "trackio"),
    "comet_ml": ("COMET_OFFLINE_DIRECTORY", "comet"),
    "mlflow": ("MLFLOW_TRACKING_URI", "mlruns"),
    "neptune": ("NEPTUNE_DATA_DIRECTORY", "neptune"),
    "clearml": ("CLEARML_CACHE_DIR", "clearml"),
    "swanlab": ("SWANLAB_LOG_DIR", "swanlab"),
}
"""Tracker -> the variable that it reads, and the folder below ``logs/``."""
_ELSEWHERE = {
    "mlflow": ("MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI", "DATABRICKS_HOST"),
    "clearml": ("CLEARML_API_HOST", "CLEARML_CONFIG_FILE"),
}
"""Variables by which a user has said already where a tracker keeps its things."""
_WITH_IT = {
    # one folder has everything; the database that newer releases prefer leaves artifacts in the working directory
    "mlflow": {"MLFLOW_ALLOW_FILE_STORE": "true"},
}
"""Further variables that a tracker needs with its folder."""


def environment(names: Sequence[str], logs: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The variables to set for these trackers.

    Args:
        names: as ``TrainingArguments.report_to`` has them.
        logs: the folder.
        given: the environment as it is; its variables are not changed.
    """
    found = {}
    for name in names:
        if name not in FOLDERS or any(given.get(other) for other in _ELSEWHERE.get(name, ())):
            continue
        variable, folder = FOLDERS[name]
        if not given.get(variable):
            place = without_links(logs) / folder
            found[variable] = place.as_uri() if variable.endswith("_URI") else str(place)
            found |= {also: value for also, value in _WITH_IT.get(name, {}).items() if also not in given}
    return found


@contextmanager
def tracked_in(names: Sequence[str], logs: Path) -> Iterator[None]:
    """While the block runs, trackers find the folder in the environment; it is made by :func:`make_folder`."""
    own = environment(names, logs, os.environ)
    os.environ.update(own)
    try:
        yield
    finally:
        for variable in own:
            os.environ.pop(variable, None)


def make_folder(trainer: Trainer, logs: Path) -> None:
    """Create the trackers' folder in the run folder (W&B writes elsewhere if it is missing), and set it for DVCLive,
    which reads no variable.
    """
    names = set(trainer.args.report_to)
    if names & {*FOLDERS, "dvclive"}:
        logs.mkdir(parents=True, exist_ok=True)
    if "dvclive" in names:
        from dvclive import Live
        from transformers.integrations import DVCLiveCallback

        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, DVCLiveCallback) and callback.live is None:
                callback.live = Live(dir=str(logs / "dvclive"))
