"""Rounds of on-policy pairs: the commands of :mod:`mmpref.sampling.round_commands` one after another, each in a process
of its own, so that its memory is free again when it ends.

A step that ended with exit code 0 is in ``round.json`` of its round and is not run again; one that was stopped goes on
where it was, which is the command's own affair. So the same call goes on wherever the last one ended, and with more
rounds it goes on after the last of them.
"""

from __future__ import annotations

import itertools
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError, MMPrefError
from mmpref.files.reading import read_json, read_text
from mmpref.files.writing import write_json, write_text, writing_to
from mmpref.process import children
from mmpref.recipe.loading import dump_recipe
from mmpref.rundir.content import ROUNDS
from mmpref.rundir.folder import RunDir, is_run_folder, versions
from mmpref.sampling.round_commands import RECIPE, Command, RoundCommands
from mmpref.sampling.round_facts import candidate_facts, pair_facts, threshold_of, used_thresholds
from mmpref.sampling.steps import read_step

ROUND = "round.json"
COMMANDS = "commands.txt"
PAGE = "report.html"

Say = Callable[[str], None]


class StepFailedError(MMPrefError):
    """A step of a round ended with an error, which it reported itself; the exit code is the step's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class _Round:
    """One round, as ``round.json`` keeps it."""

    number: int
    folder: Path
    done: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, folder: Path) -> _Round:
        file = folder / ROUND
        if not file.is_file():
            return cls(number, folder)
        found = read_json(file, DataError)
        try:
            return cls(number, folder, list(found["done"]), dict(found["facts"]))
        except (LookupError, TypeError, ValueError) as err:
            raise DataError(f"{file} is damaged ({type(err).__name__}: {err}); put it back from a copy") from err

    @property
    def is_complete(self) -> bool:
        """Whether all of a round's steps are done."""
        return "round" in self.facts

    def has(self, command: Command) -> bool:
        return any(entry["step"] == command.step for entry in self.done) and command.folder.is_dir()

    def add(self, command: Command, seconds: float) -> None:
        self.done = [entry for entry in self.done if entry["step"] != command.step]
        self.done.append({"step": command.step, "command": list(command.arguments), "seconds": round(seconds, 1)})

    def write(self, where: Path) -> None:
        content = {"round": self.number, "folder": str(where), "done": self.done, "facts": self.facts}
        write_json(self.folder / ROUND, {**content, "versions": versions()})
        lines = [shlex.join(["mmpref", *entry["command"]]) for entry in self.done]
        write_text(self.folder / COMMANDS, "".join(f"{line}\n" for line in [shlex.join(["cd", str(where)]), *lines]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Rounds in one folder.

    Args:
        commands: of the rounds.
        working_folder: absolute; relative paths of the recipe start there.
        say: called with a line for people.
    """

    commands: RoundCommands
    working_folder: Path
    say: Say

    @classmethod
    def begin(cls, commands: RoundCommands, say: Say) -> Rounds:
        """Rounds in a new or empty folder, or those that are there already.

        Raises:
            ConfigError: the folder has something else, or rounds of another recipe.
            DataError: its files are damaged.
            CheckpointError: it cannot be written.
        """
        out, file = commands.out, commands.out / ROUNDS
        commands.check()
        text = dump_recipe(commands.recipe)
        if file.is_file():
            found = read_json(file, DataError)
            _refuse_other(commands, text, found)
            folder = Path(found["folder"])
            if not folder.is_dir():
                raise ConfigError(
                    f"the rounds in {out} were begun in {folder}, which is gone; relative paths start there"
                )
            return cls(commands=commands, working_folder=folder, say=say)
        with writing_to(out):
            if out.is_dir() and any(entry.name != RECIPE for entry in out.iterdir()):
                raise ConfigError(f"--out {out} is not empty and has no {ROUNDS}; choose another folder")
            out.mkdir(parents=True, exist_ok=True)
        write_text(out / RECIPE, text)
        rounds = cls(commands=commands, working_folder=Path.cwd(), say=say)
        rounds._write()
        return rounds

    def run(self, rounds: int) -> list[dict[str, Any]]:
        """All steps that are not done yet.

        Args:
            rounds: how many there shall be; those beyond that are left as they are.

        Returns:
            What is known of each round, the start model (round 0) first.

        Raises:
            StepFailedError: a step failed; the message says which and how to go on.
            KeyboardInterrupt, Terminated: a signal, which the step that ran has heard too.
        """
        for number in range(rounds + 1):
            state = _Round.of(number, self.commands.of_round(number))
            for command in self._steps(number, state):
                if not state.has(command):
                    self._run(command, state, rounds)
            if number and not state.is_complete:
                state.facts = {"round": number, **state.facts, **used_thresholds(self.commands.run_of(number))}
                state.write(self.working_folder)
            self._write()
        return self._complete()

    def page(self, file: Path) -> None:
        """Write the page that compares the rounds.

        Raises:
            StepFailedError: that failed.
        """
        out = self.commands.out
        code = children.run_step(("report", str(out), "--out", str(file)), self.working_folder)
        if code:
            raise StepFailedError(f"{_ended('the report', code)}; the rounds themselves are complete", _exit_code(code))

    def _steps(self, number: int, state: _Round) -> Iterator[Command]:
        """The commands of a round in their order; each is made when the ones before are done."""
        commands = self.commands
        if number:
            yield commands.generate(number)
            yield commands.score(number)
            scored = commands.score(number).folder
            if "mean_score" not in state.facts:
                state.facts |= candidate_facts(scored)
            pair = commands.pair(number)
            yield pair
            if "pairs" not in state.facts:
                state.facts |= pair_facts(pair.folder)
            if not state.facts["pairs"]:
                raise EvalIncompleteError(
                    f"round {number} has no pairs to train on, from {state.facts['candidates']} candidates of "
                    f"{state.facts['prompts']} prompts; {pair.folder} says why: mmpref sample show {pair.folder}"
                )
            root = read_step(pair.folder).image_root
            yield commands.train(number, image_root=root, threshold=threshold_of(pair.folder))
        yield from commands.evaluations(number)

    def _run(self, command: Command, state: _Round, rounds: int) -> None:
        arguments = command.arguments
        if command.step == "train":
            if (state_before := _state_of(command.folder)) == "complete":  # it ended a moment before this one did
                state.add(command, 0.0)
                state.write(self.working_folder)
                return
            arguments = (*arguments, *(("--resume",) if state_before == "begun" else ()))
        self.say(f"round {state.number} of {rounds}, {command.step}: {shlex.join(['mmpref', *arguments])}")
        begun = time.monotonic()
        with writing_to(state.folder):
            state.folder.mkdir(parents=True, exist_ok=True)
        code = children.run_step(arguments, self.working_folder)
        if code:
            raise StepFailedError(
                f"{_ended(f'{command.step} of round {state.number}', code)}; put that right and give the same command "
                "again: what is done stays, and it goes on with this step",
                _exit_code(code),
            )
        state.add(command, time.monotonic() - begun)
        state.write(self.working_folder)

    def _complete(self) -> list[dict[str, Any]]:
        """The facts of the complete rounds, the start model first."""
        found: list[dict[str, Any]] = [{"round": 0}]
        for number in itertools.count(1):
            state = _Round.of(number, self.commands.of_round(number))
            if not state.is_complete:
                return found
            found.append(state.facts)
        return found

    def _write(self) -> None:
        commands, facts = self.commands, self._complete()
        runs = [
            {"label": f"round {number}" if number else "start", "path": str(commands.run_of(number))}
            for number in range(len(facts))
            if number or commands.evals
        ]
        for run in runs:
            run["path"] = str(Path(run["path"]).relative_to(commands.out))
        content = {"folder": str(self.working_folder), "train_options": list(commands.train_options)}
        write_json(commands.out / ROUNDS, {**content, "runs": runs, "rounds": facts, "versions": versions()})


def _state_of(run: Path) -> str:
    """``complete``, ``begun`` where a step was trained, or nothing."""
    if not is_run_folder(run):
        return ""
    if RunDir(run).manifest()["state"] == "complete":
        return "complete"
    return "begun" if RunDir(run).has_trained() else ""


def _refuse_other(commands: RoundCommands, text: str, found: Mapping[str, Any]) -> None:
    out = commands.out
    before = read_text(out / RECIPE, DataError, "the recipe of these rounds,")
    if before != text:
        was, now = before.splitlines(), text.splitlines()
        other = [line.strip() for line in now if line not in was] or [line.strip() for line in was if line not in now]
        raise ConfigError(
            f"{out} has rounds of another recipe ({'; '.join(other[:3])}{' ...' if other[3:] else ''}); choose another "
            f"--out, or go on with {out / RECIPE}"
        )
    if list(commands.train_options) != found.get("train_options"):
        raise ConfigError(
            f"the rounds in {out} train with {shlex.join(found.get('train_options', [])) or 'one process'}; give the "
            "same options, or choose another --out"
        )


def _ended(what: str, code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        why = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
        return f"{what} was killed ({name}{why})"
    return f"{what} ended with exit code {code}; its message is above"


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code
