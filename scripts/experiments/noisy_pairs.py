"""The demo's pairs with other shares of swapped labels: the same prompts, answers and scores, for fair comparisons.

    python scripts/experiments/noisy_pairs.py --demo demos/seed_0 --noise 0 20 40

The world says of each of its pairs whether chosen and rejected changed places. They are put back, and then the asked-
for share of the pairs that have a better answer is swapped, chosen by a hash of the id: the pairs that are swapped at
20 % are among those at 40 %. A score stays with its answer, as that of a judge would. Pairs of two equally good
answers stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from mmpref.files.writing import write_text

SWAPPED = {
    "chosen": "rejected",
    "rejected": "chosen",
    "score_chosen": "score_rejected",
    "score_rejected": "score_chosen",
}


def with_noise(rows: list[dict[str, Any]], percent: float) -> list[dict[str, Any]]:
    """The rows with ``percent`` of those that have a better answer labelled the wrong way round."""
    with_better = [row["id"] for row in rows if row["meta"]["label"] != "ambiguous"]
    order = sorted(with_better, key=lambda name: hashlib.sha256(name.encode()).digest())
    wrong = set(order[: round(len(order) * percent / 100)])
    return [_labelled(row, wrong=row["id"] in wrong) if row["meta"]["label"] != "ambiguous" else row for row in rows]


def _labelled(row: dict[str, Any], *, wrong: bool) -> dict[str, Any]:
    label = "mislabelled" if wrong else "clean"
    if row["meta"]["label"] == label:
        return row
    meta = row["meta"] | {"label": label, "honest_scores": row["meta"]["honest_scores"][::-1]}
    return row | {key: row[other] for key, other in SWAPPED.items()} | {"meta": meta}


def main() -> None:
    """Write ``world/pairs_noise_N.jsonl`` for every share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, required=True, nargs="+", help="folders of mmpref demo")
    parser.add_argument("--noise", type=float, required=True, nargs="+", help="percent of swapped labels")
    given = parser.parse_args()
    for demo in given.demo:
        world = demo / "world"
        rows = [json.loads(line) for line in (world / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
        for percent in given.noise:
            lines = [json.dumps(row) for row in with_noise(rows, percent)]
            write_text(world / f"pairs_noise_{percent:g}.jsonl", "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
