"""Ctrl-C ends every command, wherever it arrives; what another library raises is one line."""

from __future__ import annotations

import errno
import signal
import sys
import time
import weakref

import pytest

from mmpref.errors import ConfigError, DataError, OutOfMemoryError, StoppedError, library_errors, stopped_by_ctrl_c


class Thing:
    """Something that can be referred to weakly."""


def until_stopped() -> None:
    for _ in range(3000):
        time.sleep(0.01)


def test_ctrl_c_that_arrives_while_an_object_is_taken_down_is_not_lost() -> None:
    """Python only prints what a weak reference's callback raises, and goes on."""

    def interrupt(_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    @stopped_by_ctrl_c
    def command() -> None:
        thing = Thing()
        reference = weakref.ref(thing, interrupt)
        del thing
        assert reference() is None
        until_stopped()

    with pytest.raises(StoppedError) as stopped:
        command()
    assert stopped.value.exit_code == 130


def test_what_else_is_dropped_is_reported_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))

    def fail(_: object) -> None:
        raise ValueError

    @stopped_by_ctrl_c
    def command() -> None:
        thing = Thing()
        reference = weakref.ref(thing, fail)
        del thing
        assert reference() is None

    command()
    assert told == [ValueError]


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (ValueError("two\nlines\x00 here"), "two lines here"),
        (KeyError("x"), "KeyError: 'x'"),
        (OSError(), "OSError"),
        (FileNotFoundError(2, "No such file or directory", "f"), "No such file or directory"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded"),
        (ValueError("x" * 1000), "x" * 300 + "..."),
        (type("PanicException", (BaseException,), {})("index out of range"), "index out of range"),
    ],
)
def test_whatever_a_library_raises_is_one_line_with_a_remedy(raised: BaseException, words: str) -> None:
    with pytest.raises(DataError) as refused, library_errors(DataError, "f.json cannot be read", "write it again"):
        raise raised
    assert str(refused.value) == f"f.json cannot be read: {words}; write it again"


@pytest.mark.parametrize(
    "raised",
    [
        ConfigError("ours"),
        KeyboardInterrupt(),
        type("OutOfMemoryError", (RuntimeError,), {})(),
        SystemExit(),
    ],
)
def test_our_own_errors_ctrl_c_and_a_lack_of_a_devices_memory_pass(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as passed, library_errors(DataError, "f.json cannot be read", "write it again"):
        raise raised
    assert passed.value is raised


@pytest.mark.parametrize(
    "raised",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_runs_out_over_a_file_names_the_file(raised: Exception) -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"^f\.json cannot be read: out of memory; free some") as refused,
        library_errors(DataError, "f.json cannot be read", "write it again"),
    ):
        raise raised
    assert refused.value.exit_code == 5
    with (
        pytest.raises(type(raised)) as passed,
        library_errors(DataError, "f.json cannot be read", "write it again", memory=False),
    ):
        raise raised
    assert passed.value is raised


def test_memory_that_runs_out_in_a_command_is_one_error() -> None:
    @stopped_by_ctrl_c
    def command() -> None:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match=r"^out of memory; free some") as refused:
        command()
    assert refused.value.exit_code == 5
