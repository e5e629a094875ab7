"""Every path that a command takes, with something else in its place than a file or a folder that can be used: nothing
waits for a pipe, nothing is written over a device, and what is wrong is one line."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked_commands import USUAL, ForkedCommands
from tests.small_files import write_small_files

HERE = "@"
POPE = ["score", "--benchmark", "pope"]
CHAIR = ["score", "--benchmark", "chair", "--questions", "gt.json", "--answers", "captions.jsonl"]
CHECK = ["data", "check", "--workers", "1"]
PAIRS = ["pairs.jsonl", "--image-root", "images"]
EXPORT = ["export", "--benchmark", "pope", "--questions", "q.json", "--answers", "a.jsonl"]
JUDGE = ["judge", "--server", "http://127.0.0.1:1/v1", "--model", "j", "--out", "o/v.jsonl", "--dry-run"]
JUDGE_IT = ["judge", "--server", "http://127.0.0.1:1/v1", "--model", "j", "--benchmark", "mmhal"]
JUDGE_IT += ["--questions", "mmhal.json", "--answers", "mmhal.jsonl"]
EVAL = ["eval", "--benchmark", "pope"]
FETCH = ["data", "fetch", "pairs.jsonl", "--host", "x.invalid"]

READ = {
    "recipes": ["recipes", HERE],
    "config": ["config", HERE],
    "plan": ["plan", HERE],
    "train": ["train", HERE],
    "show": ["data", "show", HERE],
    "check source": [*CHECK, HERE, "--out", "o/check"],
    "check root": [*CHECK, "pairs.jsonl", "--out", "o/check", "--image-root", HERE],
    "check card": [*CHECK, *PAIRS, "--out", "o/check", "--card", HERE],
    "verify source": ["data", "verify", HERE, "--image-root", "images", "--report", "text"],
    "verify report": ["data", "verify", *PAIRS, "--report", HERE],
    "convert source": ["data", "convert", HERE, "--to", "trl", "--out", "o/c.jsonl"],
    "convert root": ["data", "convert", "pairs.jsonl", "--to", "trl", "--out", "o/c.jsonl", "--image-root", HERE],
    "view source": ["data", "view", HERE, "--out", "o/v.html"],
    "audit source": ["data", "audit", HERE],
    "audit ids": ["data", "audit", *PAIRS, "--benchmark-ids", f"x={HERE}"],
    "audit images": ["data", "audit", *PAIRS, "--benchmark-images", f"x={HERE}"],
    "audit visual genome": ["data", "audit", *PAIRS, "--visual-genome", HERE],
    "pope questions": [*POPE, "--questions", HERE, "--answers", "a.jsonl"],
    "pope answers": [*POPE, "--questions", "q.json", "--answers", HERE],
    "chair questions": [*CHAIR[:3], "--questions", HERE, "--answers", "captions.jsonl", "synonyms=synonyms.txt"],
    "chair answers": [*CHAIR[:5], "--answers", HERE, "synonyms=synonyms.txt"],
    "chair synonyms": [*CHAIR, f"synonyms={HERE}"],
    "chair prompts": [*CHAIR, "synonyms=synonyms.txt", f"prompts={HERE}"],
    **{
        f"{name} questions": ["score", "--benchmark", name, "--questions", HERE, "--answers", "a.jsonl"]
        for name in (
            "amber",
            "mme",
            "mmhal",
            "hallusionbench",
            "object_halbench",
            "repope",
            "dash_b",
            "naturalbench",
            "preference",
            "win_rate",
        )
    },
    "repope pope": ["score", "--benchmark", "repope", "--questions", "q.json", "--answers", "a.jsonl", f"pope={HERE}"],
    "mme answers": ["score", "--benchmark", "mme", "--questions", "q.json", "--answers", HERE],
    "export questions": [*EXPORT[:4], HERE, *EXPORT[5:], "--to", "llava", "--out", "o/x.jsonl"],
    "export answers": [*EXPORT[:6], HERE, "--to", "llava", "--out", "o/x.jsonl"],
    "score verdicts": ["score", *JUDGE_IT[5:], f"verdicts={HERE}"],
    "fetch source": ["data", "fetch", HERE, "--host", "x.invalid", "--out", "o/f.jsonl", "--image-root", "o/f"],
    "report run": ["report", HERE, "--out", "o/r.html"],
    "report images": ["report", "evaluated", "--out", "o/r.html", "--image-root", HERE],
    "judge questions": [*JUDGE, "--benchmark", "mmhal", "--questions", HERE, "--answers", "a.jsonl"],
    "judge answers": [*JUDGE, "--benchmark", "hallusionbench", "--questions", "q.json", "--answers", HERE],
    "eval questions": [*EVAL, "--model", "m", "--questions", HERE, "--image-root", "images", "--out", "o/e"],
}
WITH_TORCH = {
    "config adapter.path": ["config", "recipe.yaml", f"adapter.path={HERE}"],
    "doctor": ["doctor", HERE],
    "eval images": [*EVAL, "--model", "dir", "--questions", "q.json", "--image-root", HERE, "--out", "o/e"],
    "eval model": [*EVAL, "--model", HERE, "--questions", "q.json", "--image-root", "images", "--out", "o/e"],
    "eval adapter": [*EVAL, "--model", "dir", "--adapter", HERE, "--questions", "q.json", "--out", "o/e"],
    "merge run": ["merge", HERE, "--out", "o/m"],
    "data.train": ["train", "recipe.yaml", f"data.train={HERE}"],
    "data.eval": ["train", "recipe.yaml", f"data.eval={HERE}"],
    "data.root": ["train", "recipe.yaml", f"data.root={HERE}"],
    "data.manifest": ["train", "recipe.yaml", f"data.manifest={HERE}"],
    "model.path": ["train", "recipe.yaml", f"model.path={HERE}"],
    "plan model.path": ["plan", "recipe.yaml", f"model.path={HERE}"],
    "adapter.path": ["train", "recipe.yaml", f"adapter.path={HERE}"],
    "reference.cache": ["train", "recipe.yaml", f"reference={{kind: cache, cache: '{HERE}'}}"],
    "launch": ["train", "recipe.yaml", "--launch", HERE],
    "doctor model.path": ["doctor", "recipe.yaml", f"model.path={HERE}"],
    "doctor data.train": ["doctor", "recipe.yaml", f"data.train={HERE}"],
}
WRITTEN = {
    "check out": [*CHECK, *PAIRS, "--out", HERE],
    "check fix": [*CHECK, *PAIRS, "--out", "o/check", "--fix", HERE],
    "convert out": ["data", "convert", *PAIRS, "--to", "trl", "--out", HERE],
    "convert out, described": ["data", "convert", *PAIRS, "--to", "llamafactory_sharegpt", "--out", HERE],
    "convert images": ["data", "convert", *PAIRS, "--to", "ms_swift", "--out", "o/c.jsonl", "--image-folder", HERE],
    "audit out": ["data", "audit", *PAIRS, "--out", HERE],
    "audit without leaks": ["data", "audit", *PAIRS, "--drop-leaks", HERE],
    "view out": ["data", "view", *PAIRS, "--out", HERE],
    "fetch out": [*FETCH, "--image-root", "o/f", "--out", HERE],
    "fetch root": [*FETCH, "--out", "o/f.jsonl", "--image-root", HERE],
    "score out": [*POPE, "--questions", "q.json", "--answers", "a.jsonl", "--out", HERE],
    "export llava": [*EXPORT, "--to", "llava", "--out", HERE],
    "export vlmevalkit": [*EXPORT, "--to", "vlmevalkit", "--out", HERE],
    "report out": ["report", "evaluated", "--out", HERE],
    "report tables": ["report", "evaluated", HERE, "--out", "o/r.csv"],
    "judge out": [*JUDGE_IT, "--out", HERE],
    "judge cache": [*JUDGE_IT, "--out", "o/v.jsonl", "--cache", HERE],
}
WRITTEN_WITH_TORCH = {
    "config adapter.path": ["config", "recipe.yaml", f"adapter.path={HERE}"],
    "doctor": ["doctor", HERE],
    "eval images": [*EVAL, "--model", "dir", "--questions", "q.json", "--image-root", HERE, "--out", "o/e"],
    "eval out": [*EVAL, "--model", "dir", "--questions", "q.json", "--image-root", "images", "--out", HERE],
    "eval judge cache": [
        *["eval", *JUDGE_IT[5:9], "--model", "dir", "--image-root", "images", "--out", "o/e"],
        *["--judge-server", JUDGE_IT[2], "--judge-model", "j", "--judge-cache", HERE],
    ],
    "demo out": ["demo", "--out", HERE, "--scale", "0.02"],
    "output": ["train", "recipe.yaml", f"output={HERE}"],
}
KINDS = {
    "a pipe": "pipe",
    "a device": "device",
    "a socket": "socket",
    "a folder": "dir",
    "a text": "text",
    "an empty file": "empty",
    "a link to itself": "loop1",
    "below such a link": "loop1/x",
    "a link to nothing": "dangling",
    "below a file": "text/x",
    "in no folder": "nowhere/x",
    "a NUL": "a\0b",
    "a long name": "n" * 300,
    "a long path": "a/" * 3000,
    "not UTF-8": "caf\udce9.jsonl",
    "a line break": "a\nb",
    "an escape": "a\x1b[31mb",
    "an empty word": "",
    "nobody's home": "~nosuchuser/x",
    "nothing": "missing",
    "blanks": "  ",
    "a secret": "secret",
    "in a locked folder": "locked/f.json",
}
ONLY_ALLOWED = ("a secret", "in a locked folder")


def world(folder: Path) -> None:
    """A folder with small files that commands work on, and with all the odd things."""
    folder.chmod(0o777)
    write_small_files(folder)
    for name in ("secret", "locked"):
        (folder / name).mkdir() if name == "locked" else (folder / name).write_text("x")
        (folder / name).chmod(0)
    restore(folder)


def restore(folder: Path) -> list[str]:
    """Put back what the last command may have written over; the names of what it replaced by a file."""
    replaced = []
    for name, kind in (("pipe", stat.S_ISFIFO), ("device", stat.S_ISCHR), ("socket", stat.S_ISSOCK)):
        there = folder / name
        if os.path.lexists(there) and not kind(there.lstat().st_mode):
            replaced.append(name)
            there.unlink()
        if not os.path.lexists(there):
            if name == "pipe":
                os.mkfifo(there)
            elif name == "socket":
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(os.path.relpath(there))  # the whole path may be longer than a socket's can be
            else:
                os.mknod(there, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # one of our own, that tests may break
            there.chmod(0o666)
    for name in ("missing", "nowhere", "dir", "o", "loop1", "loop2", "dangling", "text", "empty"):
        there = folder / name
        if there.is_dir() and not there.is_symlink():
            shutil.rmtree(there)
        elif os.path.lexists(there):
            there.unlink()
    (folder / "dir").mkdir()
    (folder / "o").mkdir()
    (folder / "o").chmod(0o777)
    (folder / "text").write_text("hello")
    (folder / "empty").write_text("")
    (folder / "loop1").symlink_to("loop2")
    (folder / "loop2").symlink_to("loop1")
    (folder / "dangling").symlink_to("nowhere")
    return replaced


def faults(run: ForkedCommands, folder: Path, argv: list[str], kinds: list[str]) -> Iterator[str]:
    """What is wrong with a command for each kind of path."""
    for kind in kinds:
        words = [word.replace(HERE, KINDS[kind]) for word in argv]
        ended = run(words, folder=folder, memory_mib=3000, seconds=40, nobody=kind in ONLY_ALLOWED)
        if fault := ended.fault(*USUAL):
            yield f"{kind}: {' '.join(words)[:200]!a}: {fault}"
        if replaced := restore(folder):
            yield f"{kind}: {' '.join(words)[:200]!a}: a file stands where there was a {replaced}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("odd_paths")
    before = Path.cwd()
    os.chdir(made)
    try:
        world(made)
    except PermissionError:
        pytest.skip("a device of its own needs the rights to make one")
    finally:
        os.chdir(before)
    return made


@pytest.fixture(scope="module")
def run() -> Iterator[ForkedCommands]:
    modules = (
        "opening",
        "commands.check_outcome",
        "commands.check",
        "commands.convert",
        "commands.audit_source",
        "commands.verify_source",
        "commands.gallery",
        "fetching.fetch",
    )
    with ForkedCommands(*[f"mmpref.data.{name}" for name in modules], "mmpref.evals", "mmpref.report.page") as commands:
        yield commands


@pytest.fixture(scope="module")
def run_with_torch() -> Iterator[ForkedCommands]:
    with ForkedCommands("mmpref.training.run.run", "mmpref.evals.evaluate", "mmpref.doctor.recipe_check") as commands:
        yield commands


def one_kind(place: int) -> list[str]:
    """For every second command a pipe, which one could wait for, and for each of the others another odd thing."""
    others = [kind for kind in KINDS if kind != "a pipe"]
    return ["a pipe" if place % 2 else others[place // 2 % len(others)]]


@pytest.mark.parametrize("name", [*READ, *WRITTEN])
def test_a_pipe_or_another_odd_thing_in_a_path_s_place_is_one_line(
    name: str, run: ForkedCommands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    table = READ | WRITTEN
    assert list(faults(run, folder, table[name], one_kind(list(table).index(name)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READ, *WRITTEN])
def test_whatever_stands_in_a_path_s_place_is_one_line(
    name: str, run: ForkedCommands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert list(faults(run, folder, (READ | WRITTEN)[name], list(KINDS))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WITH_TORCH, *WRITTEN_WITH_TORCH])
def test_whatever_stands_in_a_path_s_place_of_a_model_s_command_is_one_line(
    name: str, run_with_torch: ForkedCommands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert list(faults(run_with_torch, folder, (WITH_TORCH | WRITTEN_WITH_TORCH)[name], list(KINDS))) == []
