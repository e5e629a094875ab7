"""Sampling that is killed again and again: nothing is lost, nothing that came is asked twice, the end is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import ChatServer
from tests.integration.killing import forked, in_child
from tests.unit.sampling.asked_servers import rows_of, says_its_seed, write_prompts

pytestmark = pytest.mark.slow
KILLS = 20
AT_ONCE = 4


class Limited(ChatServer):
    """Answers so many requests, and holds back the others until there is a new limit."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.left, self.answered = 0, 0
        self._changed = threading.Condition()

    def allow(self, left: int) -> None:
        with self._changed:
            self.left, self.answered = left, 0
            self._changed.notify_all()

    def _answer(self, request: dict[str, Any]) -> str:
        with self._changed:
            self._changed.wait_for(lambda: self.left > 0, timeout=120)
            self.left -= 1
            self.answered += 1
        return says_its_seed(request)


def test_sampling_is_killed_at_twenty_moments_and_goes_on(tmp_path: Path) -> None:
    write_prompts(tmp_path / "in", 60)
    draw = random.Random(7)

    def command(url: str, out: Path) -> list[str]:
        return [
            "sample", "generate", "--server", url, "--model", "m", "--prompts", str(tmp_path / "in/prompts.jsonl"),
            "--n", "4", "--out", str(out), "--concurrency", str(AT_ONCE),
        ]  # fmt: skip

    log = tmp_path / "out/answers.jsonl"
    kept: set[int] = set()
    with Limited().running() as server:
        for _ in range(KILLS):
            allowed = draw.randrange(0, 12)
            asked_before = len(server.requests)
            server.allow(allowed)
            child = forked(command(server.url, tmp_path / "out"))
            until = time.monotonic() + 60
            while server.answered < allowed and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.02) if allowed else draw.uniform(0, 0.6))
            os.kill(child, signal.SIGKILL)
            assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
            again = {sent["seed"] for sent in server.requests[asked_before:]}
            assert not again & kept, "asked for what had come"
            lines = log.read_bytes().split(b"\n")[:-1] if log.is_file() else []
            found = {json.loads(line)["seed"] for line in lines}
            assert kept <= found
            kept = found
        assert 20 < len(kept) < 240
        server.allow(10_000)
        assert in_child(command(server.url, tmp_path / "out")) == 0
    asked = [sent["seed"] for sent in server.requests]
    assert len(set(asked)) == 240
    assert len(asked) <= 240 + KILLS * AT_ONCE
    with ChatServer(says_its_seed).running() as server:
        assert in_child(command(server.url, tmp_path / "whole")) == 0
    assert (tmp_path / "out/candidates.jsonl").read_bytes() == (tmp_path / "whole/candidates.jsonl").read_bytes()
    assert sum(answer.get("times", 1) for row in rows_of(tmp_path / "out") for answer in row["candidates"]) == 240
    steps = [json.loads((tmp_path / name / "step.json").read_text()) for name in ("out", "whole")]
    assert steps[0]["counts"] == steps[1]["counts"]
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []
