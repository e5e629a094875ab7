"""Pairs of random words with images of noise, as files that ``mmpref train`` reads."""

from __future__ import annotations

import json
import random
from pathlib import Path

from bench_models import image

from mmpref.records import ImageRef

DISTINCT = 400
"""Words that are drawn from; every tokenizer of ``random_models`` has more."""


def random_words(draw: random.Random, count: int) -> str:
    """So many words, each a token."""
    return " ".join(f"w{draw.randrange(DISTINCT)}" for _ in range(count))


def write_pairs(
    folder: Path, count: int, *, size: tuple[int, int], prompt_words: int, answer_tokens: tuple[int, int]
) -> Path:
    """A file of pairs with scores, one image each.

    Args:
        size: width and height of the images.
        answer_tokens: of each answer, from least to most; the end of the turn is one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    rows = []
    for number in range(count):
        image(ImageRef(path=str(number)), size).save(folder / f"{number}.jpg", quality=90)
        content = [{"type": "image"}, {"type": "text", "text": random_words(draw, prompt_words)}]
        answers = {side: random_words(draw, draw.randint(*answer_tokens) - 1) for side in ("chosen", "rejected")}
        scores = {"score_chosen": draw.uniform(2, 5), "score_rejected": draw.uniform(1, 4)}
        prompt = [{"role": "user", "content": content}]
        rows.append({"id": str(number), "images": [f"{number}.jpg"], "prompt": prompt, **answers, **scores})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
