"""Made-up run folders with the files that training and evaluation write."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

THINGS = ("plate", "fork", "pot", "cup", "tree", "bench", "kite", "ball")
Row = dict[str, Any]


def scene(number: int) -> list[str]:
    """What stands in image ``number``: two or three things, the same for every run."""
    first = number % len(THINGS)
    return [THINGS[first], THINGS[(first + 3) % 8], *([THINGS[(first + 5) % 8]] if number % 3 else [])]


def caption_item(number: int, said: Sequence[str], *, text: str | None = None) -> Row:
    """A row of CHAIR's items.jsonl for a caption that names ``said``."""
    truth = scene(number)
    caption = text if text is not None else " and ".join(f"a red {thing}" for thing in said) + " ."
    mentions, start = [], 0
    for place, thing in enumerate(said):
        found = caption.find(thing, start)
        span = [found, found + len(thing)] if found >= 0 else None
        start = found + 1 if found >= 0 else start
        mentions.append(
            {"word": thing, "object": thing, "position": place, "span": span, "hallucinated": thing not in truth}
        )
    return {
        "id": f"heldout_{number:06d}",
        "image": f"images/heldout_{number:06d}.png",
        "text": caption,
        "num_words": len(caption.split()),
        "mentions": mentions,
        "objects": sorted(truth),
        "hallucinated": sorted(set(said) - set(truth)),
        "missing": sorted(set(truth) - set(said)),
    }


def captions(count: int, *, made_up_every: int, forget_every: int = 0, shift: int = 0) -> list[Row]:
    """Captions of ``count`` images: every n-th names a thing that is not there, every m-th leaves one out."""
    rows = []
    for number in range(count):
        said = scene(number)
        if forget_every and number % forget_every == 0:
            said = said[:-1]
        if made_up_every and (number + shift) % made_up_every == 0:
            said = [*said, THINGS[(number + 1) % 8]]
        rows.append(caption_item(number, said))
    return rows


def yes_no(count: int, *, split: str, wrong_yes_every: int, wrong_no_every: int) -> list[Row]:
    """POPE items of one split: one yes-question and one no-question per image."""
    rows = []
    for number in range(count):
        for label, every in (("yes", wrong_no_every), ("no", wrong_yes_every)):
            wrong = bool(every) and number % every == 0
            read = ("no" if label == "yes" else "yes") if wrong else label
            rows.append(
                {
                    "id": f"{split}/{2 * number + (label == 'no')}",
                    "split": split,
                    "image": f"images/heldout_{number:06d}.png",
                    "question": "is there a cup ?",
                    "text": read,
                    "read": read,
                    "label": label,
                    "correct": not wrong,
                }
            )
    return rows


def chair_metrics(items: Sequence[Row]) -> dict[str, float | None]:
    """CHAIR by its definition."""
    mentions = sum(len(item["mentions"]) for item in items)
    wrong = sum(mention["hallucinated"] for item in items for mention in item["mentions"])
    truth = sum(len(item["objects"]) for item in items)
    return {
        "chair_s": sum(bool(item["hallucinated"]) for item in items) / len(items),
        "chair_i": wrong / mentions if mentions else None,
        "recall": (truth - sum(len(item["missing"]) for item in items)) / truth,
        "mean_length": sum(item["num_words"] for item in items) / len(items),
    }


def pope_metrics(items: Sequence[Row], prefix: str = "") -> dict[str, float | None]:
    """POPE by its definition."""
    said = [item["read"] == "yes" for item in items]
    true = [item["label"] == "yes" for item in items]
    hits = sum(a and b for a, b in zip(said, true, strict=True))
    bottom = sum(said) + sum(true)
    return {
        f"{prefix}accuracy": sum(item["correct"] for item in items) / len(items),
        f"{prefix}f1": 2 * hits / bottom if bottom else None,
        f"{prefix}yes_ratio": sum(said) / len(items),
    }


def intervals(metrics: Mapping[str, float | None], count: int) -> dict[str, list[float]]:
    """Normal intervals for shares: near enough to look right."""
    out = {}
    for name, value in metrics.items():
        if value is None:
            continue
        half = 0.2 if name == "mean_length" else 1.96 * math.sqrt(max(value * (1 - value), 0.0) / max(count, 1))
        out[name] = [value - half, value + half]
    return out


def write_eval(run: Path, name: str, items: Sequence[Row], metrics: Mapping[str, Any], **more: Any) -> None:
    folder = run / "evals" / name
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name.split("_")[0],
        "protocol": "mmpref",
        "n": len(items),
        "n_unparsed": 0,
        "metrics": dict(metrics),
        "intervals": intervals(metrics, len(items)),
        "undefined": {},
        "notes": [],
        "versions": {"mmpref": "0.1.0"},
        **more,
    }
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps({"id": item["id"], "text": item["text"]}) + "\n" for item in items)
    )


def write_chair(run: Path, items: Sequence[Row], **more: Any) -> None:
    write_eval(run, "chair", items, chair_metrics(items), **more)


def write_pope(run: Path, splits: Mapping[str, Sequence[Row]], **more: Any) -> None:
    everything = [item for items in splits.values() for item in items]
    metrics = pope_metrics(everything) | pope_metrics(everything, "overall/")
    for split, items in splits.items():
        metrics |= pope_metrics(items, f"{split}/")
    write_eval(run, "pope", everything, metrics, **more)


def write_run(
    path: Path,
    *,
    recipe: str | None = "output: runs/x\nseed: 0\nloss:\n  name: dpo\n  beta: 0.1\ntrain:\n  learning_rate: 6e-5\n",
    log: Sequence[Row] = (),
    state: str = "complete",
) -> Path:
    path.mkdir(parents=True)
    manifest = {"mmpref": "0.1.0", "state": state, "seed": 0, "versions": {"python": "3.11", "torch": "2.13"}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    if recipe is not None:
        (path / "recipe.yaml").write_text(recipe)
    if log:
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return path


def preference_log(*, steps: int = 65, fall: float = 0.1, more: Mapping[str, float] | None = None) -> list[Row]:
    """Log lines of a preference run, with held-out lines at both ends; ``fall`` is what the chosen side loses."""

    def held_out(share: float, step: int) -> Row:
        return {
            "step": step,
            "eval_loss": 0.7 - 0.3 * share,
            "eval_logps/chosen": -6.0 - fall * share,
            "eval_logps/rejected": -9.0 - 0.7 * share,
        }

    lines: list[Row] = [held_out(0.0, 0)]
    for step in range(5, steps + 1, 5):
        share = step / steps
        lines.append(
            {
                "step": step,
                "loss": 0.69 - 0.35 * share + 0.02 * math.sin(step),
                "learning_rate": 6e-5 * (1 - share),
                "grad_norm": 1.0 + 0.1 * math.cos(step),
                "rewards/margins": 0.9 * share + 0.03 * math.sin(step),
                "rewards/accuracies": 0.5 + 0.3 * share + 0.02 * math.cos(step),
                "logps/chosen": -6.0 - fall * share,
                "ref_logps/chosen": -6.0,
                "logps/rejected": -9.0 - 0.7 * share,
                "ref_logps/rejected": -9.0,
                "grad/ratio": 1.0 + 0.6 * share,
                **(more or {}),
            }
        )
    return [*lines, held_out(1.0, steps)]


def write_pairs(path: Path, rows: Sequence[Row]) -> None:
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in rows[0]}), path)


def png(number: int, side: int = 72) -> bytes:
    """A small RGB image with some boxes, without Pillow."""
    lines = []
    for y in range(side):
        row = bytearray([0])
        for x in range(side):
            cell = (x // 24) + 3 * (y // 24)
            inside = 5 < x % 24 < 19 and 5 < y % 24 < 19
            row += (
                bytes([40 * cell % 255, 90, 200 - 20 * cell])
                if inside and (number + cell) % 3 == 0
                else b"\xe4\xe4\xe4"
            )
        lines.append(bytes(row))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        + chunk(b"IEND", b"")
    )


def write_images(root: Path, count: int) -> Path:
    (root / "images").mkdir(parents=True)
    for number in range(count):
        (root / "images" / f"heldout_{number:06d}.png").write_bytes(png(number))
    return root


SPLITS = ("random", "popular", "adversarial")


def demo_like(root: Path, count: int = 60) -> list[Path]:
    """Five runs like the demo's: a start that hallucinates, three honest methods and one that only says less."""
    plans = {
        "habit": {"made_up": 3, "forget": 20, "yes": 3, "log": [], "fall": None},
        "sft_chosen": {"made_up": 12, "forget": 14, "yes": 7, "fall": -0.4},
        "dpo": {"made_up": 8, "forget": 10, "yes": 6, "fall": 0.07},
        "uni_dpo": {"made_up": 9, "forget": 11, "yes": 5, "fall": -0.03},
        "adadpo": {"made_up": 0, "forget": 2, "yes": 4, "fall": 0.0},
    }
    extra = {
        "uni_dpo": {"uni/w_qual": 0.6, "uni/w_perf": 0.4, "uni/nll_active": 0.1},
        "adadpo": {"ada/coef_chosen": 1.1, "ada/coef_rejected": 0.9},
    }
    runs = []
    for name, plan in plans.items():
        if plan["fall"] is None:
            log = [{"step": step, "loss": 2.0 / (1 + step / 40)} for step in range(10, 400, 10)]
        else:
            log = preference_log(fall=plan["fall"], more=extra.get(name))
            if name == "sft_chosen":
                log = [{k: v for k, v in line.items() if not k.startswith("rewards")} for line in log]
        run = write_run(root / name, log=log)
        write_chair(run, captions(count, made_up_every=plan["made_up"], forget_every=plan["forget"]))
        write_pope(
            run,
            {
                split: yes_no(count, split=split, wrong_yes_every=plan["yes"] - place, wrong_no_every=15)
                for place, split in enumerate(SPLITS)
            },
            protocols={"official": {"metrics": {"accuracy": 0.81, "f1": 0.8}}},
        )
        runs.append(run)
    return runs
