"""Prompts and servers for tests of sampling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpref.data.prompt_source import PromptSource, read_prompts
from mmpref.generation import SampleSettings, Server
from mmpref.sampling.generate import GenerateSettings, generate
from mmpref.sampling.steps import CANDIDATES, QUARANTINE, Step
from tests.chat_server import ChatServer, Request, text_of

COLOURS = ("red", "green", "blue", "white")


def write_prompts(folder: Path, num: int = 6, *, rows: list[dict[str, Any]] | None = None) -> PromptSource:
    """Questions about images, as a file beside the images."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for colour in COLOURS:
        Image.new("RGB", (40, 30), colour).save(folder / f"{colour}.png")
    rows = rows or [
        {"question_id": n, "image": f"{COLOURS[n % 4]}.png", "text": f"What is on number {n}?"} for n in range(num)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_prompts(folder / "prompts.jsonl")


def says_its_seed(request: Request) -> str:
    """One of three texts, by the seed, so that some samples of a prompt are equal."""
    return f" Text {request.get('seed', 0) % 3} of {text_of(request)} "


def sample(
    source: PromptSource,
    server: ChatServer | list[ChatServer],
    out: Path,
    *,
    at: dict[str, Any] | None = None,
    **more: Any,
) -> Step:
    """Sample from servers that run here."""
    servers = server if isinstance(server, list) else [server]
    asked = {"pause": 0.01, "timeout": 60.0, "attempts": 3, **(at or {})}
    settings = GenerateSettings(**{"n": 3, "sampling": SampleSettings(temperature=0.7, top_p=0.9), **more})
    return generate(
        "m", source, out, servers=[Server(url=one.url, model="m", **asked) for one in servers], settings=settings
    )


def rows_of(out: Path, name: str = CANDIDATES) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]


def quarantined(out: Path) -> list[dict[str, Any]]:
    """The rows of ``quarantine.jsonl``."""
    return rows_of(out, QUARANTINE)


def unless(numbers: Callable[[int], bool], otherwise: Any) -> Callable[[Request], Any]:
    """``otherwise`` for questions about some numbers."""

    def answer(request: Request) -> Any:
        number = int(text_of(request).split()[-1].rstrip("?"))
        return otherwise if numbers(number) else says_its_seed(request)

    return answer
