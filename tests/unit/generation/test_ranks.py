"""One process alone does what several do, without a word between them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.generation.ranks import Ranks, ranks
from mmpref.records import EvalSample, ImageRef, user_turn

SAMPLES = [
    EvalSample(id=str(n), images=(ImageRef(path=f"{n // 2}.png"),), prompt=user_turn("?", num_images=1))
    for n in range(6)
]


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_is_the_first_of_one_and_loads_no_torch() -> None:
    found = ranks()
    assert found == Ranks()
    assert (found.is_alone, found.is_first, found.device) == (True, True, None)
    code = (
        "import sys; from mmpref.generation.ranks import Ranks\n"
        "with Ranks().together():\n    Ranks().wait(); assert Ranks().share(3) == Ranks().first_does(lambda: 3) == 3\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_process_alone_has_all_questions_in_their_order() -> None:
    mixed = [SAMPLES[n] for n in (0, 2, 1, 4, 3, 5)]
    assert list(Ranks().share_of(mixed)) == mixed


def test_shares_hold_every_question_once() -> None:
    shares = [Ranks(rank, 2, rank).share_of(SAMPLES) for rank in range(2)]
    assert sorted(sample.id for share in shares for sample in share) == [sample.id for sample in SAMPLES]
    assert not {s.images for s in shares[0]} & {s.images for s in shares[1]}


def test_an_error_of_a_process_alone_is_its_own() -> None:
    def fails() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong") as caught:
        Ranks().first_does(fails)
    assert not caught.value.reported_by_other_rank


def test_what_torchrun_sets_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks() == Ranks(3, 4, 1)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match="must be whole numbers"):
        ranks()


_TWO = """
import sys
from mmpref.errors import ConfigError
from mmpref.generation.ranks import ranks

def fails():
    raise ConfigError("wrong")

found = ranks()
with found.together():
    assert found.share(f"from {found.rank}") == "from 0"
    assert found.first_does(lambda: found.rank) == 0
    try:
        found.first_does(fails)
    except ConfigError as err:
        print(found.rank, err, err.reported_by_other_rank, flush=True)
"""


def test_two_processes_share_what_the_first_has_and_its_errors(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [process.communicate()[0].strip() for process in running] == ["0 wrong False", "1 wrong True"]


def free_port() -> str:
    """Below those that the system gives to whoever asks for any: nobody takes it before the process that is told of it
    does."""
    import random
    import socket

    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return str(port)
    raise AssertionError("none of a hundred ports is free")
