"""Losses with weights of tokens, from the command line: they train, say what they weigh, and lose no row silently."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmpref import PreferenceTrainer
from mmpref.cli.main import main
from mmpref.data.pairs import pair_from_row
from mmpref.errors import ConfigError
from mmpref.losses import build_objective
from mmpref.losses.settings import SuspiciousLossWarning
from mmpref.models import load, prepare
from mmpref.models.tuning import Tuning
from mmpref.processing import PairCollator, PairEncoder, TokenWeightSettings
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.options import TrainerOptions
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.integration.test_from_python import arguments

SHORT = ("train.max_steps=2", "train.logging_steps=1", "train.eval_steps=2")


def rows(place: Place, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.world.pairs.read_text().splitlines()[:count]]


def written(place: Place, name: str, found: list[dict[str, Any]]) -> Path:
    """Beside the world's images."""
    file = place.world.root / name
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return file


def logged(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in RunDir(run).metrics_file.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_ddpo_trains_evaluates_and_logs_what_it_weighs(place: Place, tmp_path: Path) -> None:
    assert main(place.training("demo_dpo", tmp_path / "run", *SHORT, "loss.name=ddpo")) == 0
    shares = logged(tmp_path / "run", "weights/changed_share")
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)
    assert all(0 < share < 1 for share in logged(tmp_path / "run", "eval_weights/changed_share"))
    log = read_pair_log(RunDir(tmp_path / "run").pairs_file)
    of_chosen = zip(log["weights/effective_len"], log["len/chosen"], strict=True)
    assert all(length <= effective <= 4 * length for effective, length in of_chosen)
    assert sum(log["weights/effective_len"]) > sum(log["len/chosen"])
    assert all(map(math.isfinite, log["rewards/margins"]))


@pytest.mark.slow
def test_masked_ddpo_sets_pairs_aside_in_which_nothing_is_changed(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    some = rows(place, 30)
    longer = [row for row in some if len(row["chosen"].split()) > 8][:3]
    for row in longer:  # the second answer says more in the middle
        words = row["chosen"].split()
        row["rejected"] = " ".join([*words[: len(words) // 2], "xyz", *words[len(words) // 2 :]])
    file = written(place, "longer.jsonl", some)
    command = place.training("demo_dpo", tmp_path / "run", *SHORT, "loss.name=ddpo_masked", f"data.train={file}")
    assert main(command) == 0
    out = capfd.readouterr().out.replace("\n", " ")
    assert "no_weight" in out
    kept = [json.loads(line) for line in RunDir(tmp_path / "run").quarantine_file.read_text().splitlines()]
    assert {row["reason"] for row in kept} == {"no_weight"}
    assert len(longer) == 3
    assert {row["id"] for row in longer} <= {row["id"] for row in kept}


@pytest.mark.slow
def test_hsa_reads_weights_of_rows_and_refuses_a_file_without_them(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    some = rows(place, 16)
    command = place.training("demo_dpo", tmp_path / "none", *SHORT, "loss.name=hsa")
    assert main(command) == 2
    assert "none of 60 pairs has chosen_weight or rejected_weight" in capfd.readouterr().err.replace("\n", " ")
    for number, row in enumerate(some[:12]):
        row["rejected_weight"] = 1.0 + number % 3 if number % 2 else [[0, 3, 2.5]]
    file = written(place, "severities.jsonl", some)
    command = place.training("demo_dpo", tmp_path / "run", *SHORT, "loss.name=hsa", f"data.train={file}")
    assert main(command) == 0
    assert "12 of 28 pairs have chosen_weight or rejected_weight" in capfd.readouterr().out.replace("\n", " ")
    shares = logged(tmp_path / "run", "weights/changed_share")
    assert all(0 < share < 1 for share in shares)


def test_a_script_gets_the_weights_of_its_loss_and_a_collator_must_have_them(place: Place, tmp_path: Path) -> None:
    pairs = [pair_from_row(row, source="rows", line=1) for row in rows(place, 4)]
    trainer = PreferenceTrainer(
        str(place.model), arguments(tmp_path / "out", max_steps=1), objective={"name": "ddpo"}, train_pairs=pairs,
        options=TrainerOptions(image_root=place.world.root),
    )  # fmt: skip
    assert trainer.collator.encoder.token_weights == TokenWeightSettings(rule="diff")
    loaded = prepare(load(str(place.model)), Tuning(language="full"))
    objective = build_objective({"name": "ddpo"})

    def made(rule: TokenWeightSettings | None, loss: Any) -> PreferenceTrainer:
        collator = PairCollator(PairEncoder(loaded.processor, loaded.family, token_weights=rule), lambda ref: None)
        return PreferenceTrainer(
            loaded, arguments(tmp_path / "out"), objective=loss, train_pairs=pairs,
            options=TrainerOptions(collator=collator),
        )  # fmt: skip

    with pytest.raises(ConfigError, match=r"token_weights=TokenWeightSettings\.of"):
        made(None, objective)
    advised = made(TokenWeightSettings.of(objective.token_weights), objective)
    assert advised.collator.encoder.token_weights is not None
    with pytest.raises(ConfigError, match="the loss has none"):
        made(TokenWeightSettings(rule="diff"), build_objective({"name": "dpo"}))
    weighed = [pair_from_row({**row, "rejected_weight": 2.0}, source="rows", line=1) for row in rows(place, 4)]
    with pytest.warns(SuspiciousLossWarning, match="which this loss does not read"):
        PreferenceTrainer(
            str(place.model), arguments(tmp_path / "out"), objective={"name": "dpo"}, train_pairs=weighed,
            options=TrainerOptions(image_root=place.world.root),
        )  # fmt: skip
