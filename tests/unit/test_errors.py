"""Ctrl-C ends every command, wherever it arrives."""

from __future__ import annotations

import signal
import sys
import time
import weakref

import pytest

from mmpref.errors import StoppedError, stopped_by_ctrl_c


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
