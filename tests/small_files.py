"""Small files that every command can work with."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

THINGS = ("cat", "dog", "cup", "bench")


def write_small_files(folder: Path) -> None:
    """Pairs with an image, a recipe, questions, answers and results, in a folder that is there."""
    (folder / "images").mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "images" / "a.png")
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    pairs = [
        {"id": str(n), "images": ["a.png"], "prompt": prompt, "chosen": f"A {thing}.", "rejected": f"No {thing}.",
         "score_chosen": 4.0, "score_rejected": 2.0}
        for n, thing in enumerate(THINGS)
    ]  # fmt: skip
    alpaca = [
        {"id": str(n), "instruction": "What is two and two?", "chosen": "Four.", "rejected": f"{n + 5}."}
        for n in range(3)
    ]
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    described = {"mine": {"file_name": "alpaca.json", "ranking": True, "columns": columns}}
    asked = [
        {"question_id": n, "image": "a.png", "text": f"Is there a {thing}?", "label": ("yes", "no")[n % 2]}
        for n, thing in enumerate(THINGS)
    ]
    mmhal = [{"question_type": "other", "question_topic": "x", "image_id": "a", "image_src": "http://x/a.jpg",
              "image_content": ["cat"], "question": "What?", "gt_answer": "A cat."}]  # fmt: skip
    results = {"benchmark": "pope", "protocol": "mmpref", "n": 1, "metrics": {"accuracy": 1.0}, "intervals": {}}
    (folder / "evaluated").mkdir()
    texts = {
        "pairs.jsonl": lines(pairs),
        "alpaca.json": json.dumps(alpaca, indent=1),
        "dataset_info.json": json.dumps(described, indent=1),
        "recipe.yaml": "output: o/run\nmodel: {path: m}\ndata: {train: pairs.jsonl, root: images}\nloss: {name: dpo}\n"
        "train: {learning_rate: 1e-6}\n",
        "q.json": json.dumps(asked),
        "a.jsonl": lines([{"id": str(n), "text": ("Yes", "No")[n // 2]} for n in range(4)]),
        "captions.jsonl": lines([{"id": "1", "text": "A dog."}]),
        "gt.json": json.dumps({"1": ["dog"]}),
        "synonyms.txt": "dog, puppy\ncat\n",
        "mmhal.json": json.dumps(mmhal),
        "mmhal.jsonl": lines([{"id": "0", "text": "A cat."}]),
        "verdicts.jsonl": lines([{"id": "0", "score": 5}]),
        "evaluated/results.json": json.dumps(results),
        "evaluated/items.jsonl": lines([{"id": "1", "read": "yes"}]),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
