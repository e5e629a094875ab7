"""Standard output that is lost, full, read by nobody or in an encoding that lacks a letter: never an exception."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROTECTED = "import os, sys\nfrom mmpref.process import streams\nstreams.protect()\n"
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line for bash in which ``$MMPREF`` is the command."""
    program = {"MMPREF": f"{sys.executable} -m mmpref"}
    return subprocess.run(
        ["bash", "-c", line], env={**os.environ, **program, **env}, capture_output=True, text=True, errors="replace"
    )


def python(code: str, folder: Path, how: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(PROTECTED + code, encoding="utf-8")
    return shell(f"{sys.executable} {script} {how}", **env)


@pytest.mark.parametrize("command", ["recipes", "config demo_dpo", "--help", "data list", "config --help"])
def test_a_reader_that_went_away_ends_a_command_quietly(command: str) -> None:
    done = shell(f"$MMPREF {command} | head -1; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


@FULL
@pytest.mark.parametrize("command", ["recipes", "config demo_dpo", "--version", "data list"])
def test_a_full_disk_behind_standard_output_is_one_line_and_exit_code_6(command: str) -> None:
    done = shell(f"$MMPREF {command} > /dev/full")
    assert done.returncode == 6
    assert done.stderr.startswith("mmpref: standard output cannot be written: No space left on device")
    assert done.stderr.count("\n") == 1


@FULL
def test_an_error_keeps_its_own_code_whatever_becomes_of_the_output() -> None:
    assert shell("$MMPREF config nothing > /dev/full").returncode == 2
    assert shell("$MMPREF config nothing 2> /dev/full").returncode == 2
    assert shell("$MMPREF config nothing >&- 2>&-").returncode == 2


def test_a_result_is_written_although_nobody_reads_the_table(tmp_path: Path) -> None:
    """The reader is gone before the first letter."""
    questions, answers, out = tmp_path / "q.jsonl", tmp_path / "a.jsonl", tmp_path / "out.json"
    questions.write_text(
        '{"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}\n', encoding="utf-8"
    )
    answers.write_text('{"id": "1", "text": "yes"}\n', encoding="utf-8")
    line = f"$MMPREF score --benchmark pope --questions {questions} --answers {answers} --out {out}"
    done = shell(f"{line} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert '"pope"' in out.read_text(encoding="utf-8")


def test_a_closed_descriptor_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    """What is printed would be written into that file."""
    code = f"f = open({str(tmp_path / 'file')!r}, 'w')\nprint('lost')\nos.write(1, b'lost')\nsys.exit(f.fileno() < 3)\n"
    assert python(code, tmp_path, ">&- 2>&- <&-").returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_text_goes_on_where_there_is_room_again(tmp_path: Path) -> None:
    """A disk that was full for a while loses what was printed meanwhile, and no more."""
    code = """
import resource, signal
print("first", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (6, resource.RLIM_INFINITY))
print("second", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("third", flush=True)
sys.exit(streams.lost_output()[0].count("File too large"))
"""
    assert python(code, tmp_path, f"> {tmp_path / 'log'}").returncode == 1
    assert (tmp_path / "log").read_text() == "first\nthird\n"


def test_a_training_does_not_wait_for_a_reader_that_does_not_read(tmp_path: Path) -> None:
    code = """
streams.PATIENCE = 0.05
told = []
try:
    with streams.going_on_without(told.append):
        for number in range(30):
            print("x" * 10_000, flush=True)
finally:
    print(told, file=sys.stderr)
    open(sys.argv[1], "w").close()
"""
    through = tmp_path / "through"
    done = python(code, tmp_path, f"{through} | {{ until test -e {through}; do sleep 0.05; done; wc -c; }}")
    assert "nobody reads standard output: the run goes on without it" in done.stderr
    assert 4096 <= int(done.stdout) < 300_000


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_a_letter_that_the_terminal_does_not_have_is_escaped(tmp_path: Path, encoding: str) -> None:
    code = """
import typer
from mmpref.terminal import print_facts, print_table
text = "\\U0001F600 caf\\u00e9 \\ud83d"
print(text)
typer.echo(text)
typer.echo(text, err=True)
print_table("table", ["a", text], [[text, text]], [text])
print_facts(text, [(text, text)])
"""
    done = python(code, tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\\ud83d") == 9
    assert done.stdout.count("\\U0001f600") == (0 if encoding == "utf-8" else 9)
    assert "\\ud83d" in done.stderr
