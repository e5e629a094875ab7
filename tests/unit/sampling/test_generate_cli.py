"""``mmpref sample generate`` and ``merge`` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.cli.main import main
from tests.chat_server import ChatServer, text_of
from tests.unit.sampling.asked_servers import rows_of, says_its_seed, unless, write_prompts


def command(tmp_path: Path, url: str, *more: str) -> list[str]:
    return [
        "sample", "generate", "--model", "m", "--server", url, "--prompts", str(tmp_path / "in/prompts.jsonl"),
        "--n", "2", "--temperature", "0.5", "--out", str(tmp_path / "out"), *more,
    ]  # fmt: skip


def test_from_prompts_to_shards_to_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prompts(tmp_path / "in")
    shards = [str(tmp_path / f"shard-{number}") for number in (1, 2)]
    with ChatServer(says_its_seed).running() as server:
        for number, shard in enumerate(shards, 1):
            assert main(command(tmp_path, server.url, "--shard", f"{number}/2", "--out", shard)) == 0
        assert len(server.requests) == 12
        assert {sent["max_tokens"] for sent in server.requests} == {256}
        assert main(command(tmp_path, server.url)) == 0
    assert main(["sample", "merge", *shards, "--out", str(tmp_path / "merged")]) == 0
    assert {row["id"]: row for row in rows_of(tmp_path / "merged")} == {
        row["id"]: row for row in rows_of(tmp_path / "out")
    }
    assert main(["sample", "merge", shards[0], "--out", str(tmp_path / "other")]) == 3
    assert "1 of 2 shards are missing: 2/2" in capsys.readouterr().err


def test_a_folder_of_images_and_one_question(tmp_path: Path) -> None:
    write_prompts(tmp_path / "in")
    folder = ["--prompts", str(tmp_path / "in"), "--question", "What is this?"]
    with ChatServer(says_its_seed).running() as server:
        assert main([*command(tmp_path, server.url), *folder]) == 0
        assert {text_of(sent) for sent in server.requests} == {"What is this?"}
        assert len(server.requests) == 8
        assert main([*command(tmp_path, server.url), *folder, "--card", "x"]) == 2
        assert main([*command(tmp_path, server.url), *folder, "--image-root", str(tmp_path)]) == 2
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["blue.png", "green.png", "red.png", "white.png"]


def test_exit_codes_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prompts(tmp_path / "in")
    refused = (400, {"error": {"message": "maximum context length"}})
    with ChatServer(unless(lambda number: number == 3, refused)).running() as server:
        assert main(command(tmp_path, server.url)) == 8
        assert "2 of 12 samples are missing (over_limit 2): '3#0', '3#1'" in " ".join(capsys.readouterr().err.split())
        assert main(command(tmp_path, server.url, "--max-missing", "0.2")) == 0
        assert main(command(tmp_path, server.url, "--seed", "1")) == 2
        assert main(command(tmp_path, server.url, "--temperature", "0")) == 2
        assert main(command(tmp_path, server.url, "--shard", "3/2")) == 2
        assert main(command(tmp_path, server.url, "--adapter", "x")) == 2
        asked = len(server.requests)
        assert main([*command(tmp_path, server.url), "--prompts", str(tmp_path / "none.jsonl")]) in (2, 3)
        assert len(server.requests) == asked
