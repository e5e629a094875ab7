"""What a user can give in a path's place, made in a folder; and small files that every command can work with."""

from __future__ import annotations

import base64
import json
import os
import socket
from io import BytesIO
from pathlib import Path

from PIL import Image

NOT_A_NAME = ("long name", "long path", "half", "newline", "empty", "blank")
"""Refused whichever command they are for."""
SPECIAL = ("pipe", "device", "socket", "loop", "missing", "below a file")


def png(side: int = 32, colour: str = "red") -> bytes:
    stream = BytesIO()
    Image.new("RGB", (side, side), colour).save(stream, "PNG")
    return stream.getvalue()


def odd_paths(folder: Path) -> dict[str, str]:
    """Name -> a path of that kind; the folder is short, as a socket's path has at most 107 bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "pipe.jsonl")
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(folder / "socket.jsonl"))
    held.close()
    (folder / "one.jsonl").symlink_to(folder / "two.jsonl")
    (folder / "two.jsonl").symlink_to(folder / "one.jsonl")
    (folder / "folder.jsonl").mkdir()
    (folder / "file").write_text("")
    return {
        "long name": "x" * 300,
        "long path": "d/" * 2100 + "f.jsonl",
        "half": os.fsdecode(b"a\xff.jsonl"),
        "newline": "a\nb.jsonl",
        "empty": "",
        "blank": " ",
        "folder": str(folder / "folder.jsonl"),
        "pipe": str(folder / "pipe.jsonl"),
        "device": "/dev/zero",
        "socket": str(folder / "socket.jsonl"),
        "loop": str(folder / "one.jsonl"),
        "missing": str(folder / "nowhere" / "x.jsonl"),
        "below a file": str(folder / "file" / "x.jsonl"),
    }


def good_files(folder: Path) -> Path:
    """Pairs, images, a recipe, questions, answers and results that the commands take."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(png())
    rows = [
        {"id": f"p{n}", "prompt": "what is it ?", "images": ["a.png"], "chosen": f"a cup {n}", "rejected": f"a dog {n}"}
        for n in range(4)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "alpaca.json").write_text(
        json.dumps(
            [
                {"instruction": "<image>what ?", "images": ["a.png"], "chosen": "a", "rejected": f"b{n}"}
                for n in range(4)
            ]
        )
    )
    info = {
        "pairs": {
            "file_name": "alpaca.json",
            "ranking": True,
            "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected", "images": "images"},
        }
    }
    (folder / "info").mkdir()
    (folder / "info" / "dataset_info.json").write_text(json.dumps(info))
    (folder / "info" / "alpaca.json").write_bytes((folder / "alpaca.json").read_bytes())
    (folder / "info" / "a.png").write_bytes(png())
    (folder / "recipe.yaml").write_text(
        "output: run\nmodel: {path: model}\ndata: {train: pairs.jsonl}\nloss: {name: dpo}\n"
        "train: {learning_rate: 1.0e-6}\n"
    )
    asked = [
        {"question_id": n, "image": "a.png", "text": "Is there a cup?", "label": ("yes", "no")[n % 2]} for n in range(4)
    ]
    (folder / "pope.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    answers = [{"id": str(n), "text": ("Yes", "No")[n // 2]} for n in range(4)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    (folder / "synonyms.txt").write_text("cup, mug\nbench\n")
    (folder / "truth.json").write_text(json.dumps({"1": {"objects": ["cup"], "image": "a.png"}}))
    (folder / "captions.jsonl").write_text('{"id": "1", "text": "a cup and a bench"}\n')
    (folder / "embedded.jsonl").write_text(
        json.dumps(
            {
                "prompt": "what ?",
                "images": [{"bytes": base64.b64encode(png()).decode()}],
                "chosen": "a",
                "rejected": "b",
            }
        )
        + "\n"
    )
    (folder / "objects.jsonl").write_text('{"image_id": 1, "question": "Describe it.", "image": "a.png"}\n')
    (folder / "described.jsonl").write_text('{"image_id": 1, "text": "a cup and a bench"}\n')
    return folder
