"""The KL estimate of KTO and the running shift of anchors are of all processes together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmpref.cli.main import main
from tests.distributed.conftest import FSDP2, Place, assert_same_run, logged, run_together
from tests.tiers import corners

pytestmark = pytest.mark.distributed
SHIFT = ("loss.anchor={chosen: 0.3, rejected: 0.3, delta: running}", "train.learning_rate=3e-4")
HELD_OUT = ("data.held_out=0.3", "train.per_device_eval_batch_size=2")

# name -> (what differs from the demo's recipe, the statistic that shows the constant)
CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "kto in parts, held-out answers": (("loss.name=kto", "processing.row_tokens=100", *HELD_OUT), "kto/kl"),
    "kto by a cache, accumulated": (
        ("loss.name=kto", "reference.kind=cache", "train.gradient_accumulation_steps=2"), "kto/kl",
    ),
    "shift from the forward": ((*SHIFT, *HELD_OUT), "anchor/shift"),
    "shift from a forward before, groups": (
        (*SHIFT, "train.gradient_accumulation_steps=2", "train.group_pairs=prompt"), "anchor/shift",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def liked(place: Place) -> str:
    """Answers most of which are desirable: those of other rows become likelier too, and the estimate is not 0."""
    rows = [json.loads(line) for line in (place.root / "mixed.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        if number % 6:
            row["label"] = True
            for name in ("rejected", "score_chosen", "score_rejected"):
                row.pop(name, None)
    (place.root / "liked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "liked"


def line(place: Place, output: Path, name: str, *changes: str, liked: str) -> list[str]:
    of_case, statistic = CASES[name]
    return place.train(output, *of_case, *changes, pairs=liked if statistic == "kto/kl" else "pairs")


@pytest.fixture(scope="module")
def singles(place: Place, liked: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    for number, name in enumerate(CASES):
        assert main(line(place, root / str(number), name, "train.per_device_train_batch_size=6", liked=liked)) == 0
    return root


@pytest.mark.parametrize("strategy", corners(["ddp", "fsdp2"], "fsdp2"))
def test_two_processes_have_the_constants_of_one(
    place: Place, liked: str, singles: Path, tmp_path: Path, strategy: str
) -> None:
    lines = [
        line(place, tmp_path / str(number), name, "train.per_device_train_batch_size=3", liked=liked)
        for number, name in enumerate(CASES)
    ]
    run_together(lines, tmp_path, **(FSDP2 if strategy == "fsdp2" else {}))
    for number, (name, (_, statistic)) in enumerate(CASES.items()):
        print(name)  # noqa: T201  # shown when the next line fails
        assert_same_run(tmp_path / str(number), singles / str(number))
        ours, theirs = (_values(root / str(number), statistic) for root in (tmp_path, singles))
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
        assert max(map(abs, theirs)) > 1e-3


def _values(run: Path, statistic: str) -> list[Any]:
    found = [mine[name] for mine in logged(run) for name in (statistic, f"eval_{statistic}") if name in mine]
    assert found
    return found
