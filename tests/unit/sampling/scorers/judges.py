"""Judges for tests, which answer as a function of the answer says, and prompts with answers to judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpref.generation.api_server import Server
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, user_turn
from mmpref.sampling.scorers.judge import JudgeScorer, Options
from tests.chat_server import Request, text_of


def judge_at(url: str, folder: Path, *, attempts: int = 2, timeout: float = 60, **options: Any) -> JudgeScorer:
    """A scorer that asks the judge at ``url``, and does not wait long before it asks again."""
    given = Options(**{"server": url, "model": "judge", "concurrency": 2, "timeout": timeout, **options})
    at = Server(
        url=url,
        model=given.model,
        key_env=given.key_env,
        pause=0.01,
        timeout=timeout,
        attempts=attempts,
        concurrency=given.concurrency,
    )
    return JudgeScorer(given, at, cache=Path(given.cache or folder / "cache.jsonl"), images_root=folder)


def candidates(*texts: str, prompt_id: str = "p", images: tuple[str, ...] = (), question: str = "What?") -> Candidates:
    shown = tuple(ImageRef(path=path) for path in images)
    prompt = Prompt(id=prompt_id, images=shown, prompt=user_turn(question, num_images=len(shown)))
    return Candidates(prompt=prompt, answers=tuple(Candidate(text=text) for text in texts))


def fence_of(request: Request) -> str:
    found = re.search(r'"fence": "(\w+)"', request["messages"][0]["content"])
    assert found is not None
    return found[1]


def answer_in(request: Request) -> str:
    """The answer that is to be rated, as it stands in its fence."""
    fence = fence_of(request)
    found = re.search(rf"<<<{fence} ANSWER TO RATE\n(.*)\n{fence}>>>", text_of(request), re.DOTALL)
    assert found is not None
    return found[1]


def verdict(request: Request, score: Any, **more: Any) -> str:
    return json.dumps({"fence": fence_of(request), "reason": "so it is", "score": score, **more})


def rates(by: Callable[[str], Any]) -> Callable[[Request], str]:
    """A judge that gives every answer what ``by`` says of its text."""
    return lambda request: verdict(request, by(answer_in(request)))
