"""The state of a run in its manifest: from the creation of its folder to its end, however it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from mmpref.errors import CheckpointError, StoppedError, Terminated
from mmpref.recipe.sections import Recipe
from mmpref.rundir.claim import Claim
from mmpref.rundir.folder import RunDir, State
from mmpref.rundir.locking import has_vanished
from mmpref.rundir.train_log import TrainLog
from mmpref.training.parallel.world import World, partner_lost
from mmpref.training.trainer.signals import defer_signals


class RunState:
    """Creates the run folder that was claimed, and writes into its manifest how the run ended."""

    def __init__(self, claim: Claim, world: World, log: TrainLog) -> None:
        self._claim, self._world, self._log = claim, world, log
        self._run: RunDir | None = None

    def create(self) -> RunDir:
        """Create the run folder, if that was not done before. All ranks must call it together."""
        return self._create(self._claim)

    def create_or_update(self, recipe: Recipe, facts: Mapping[str, Any]) -> RunDir:
        """Create the run folder, or write recipe and facts into it. All ranks must call it together."""
        claim = replace(self._claim, recipe=recipe, facts={**self._claim.facts, **facts})
        if self._run is None:
            return self._create(claim)
        with defer_signals():
            self._world.on_first_rank(claim.update)
        return self._run

    def _create(self, claim: Claim) -> RunDir:
        if self._run is None:
            with defer_signals():  # a signal before the next line would leave the state at "running"
                self._run = self._world.on_first_rank(claim.create)
                self._log.start(self._run.log_file)
        return self._run

    def end(self, state: State, **facts: Any) -> None:
        """Write how the run ended, if its folder was created and still exists."""
        # a disk too full for the manifest: the error on its way says more
        with defer_signals(discard=True), suppress(CheckpointError):
            if self._run is not None and self._world.is_first and not has_vanished(self._claim.recipe.output):
                self._run.set_state(state, **facts)


@contextmanager
def state_kept(claim: Claim, world: World, log: TrainLog) -> Iterator[RunState]:
    """The state of a run; if the block raises, the manifest says ``stopped`` or ``failed``.

    Raises:
        StoppedError: a signal outside the training steps, with how to resume.
    """
    state = RunState(claim, world, log)
    try:
        yield state
    except (KeyboardInterrupt, StoppedError):
        state.end("stopped")
        raise
    except Terminated as stop:
        if (lost := partner_lost(stop)) is not None:
            state.end("failed", error=f"{type(lost).__name__}: {lost}")
            raise
        state.end("stopped")
        name = signal.Signals(stop.number).name
        message = f"stopped by {name} outside the training steps (run folder {claim.run.path}); go on with --resume"
        raise StoppedError(message, stop.number) from None
    except BaseException as err:
        state.end("failed", error=f"{type(err).__name__}: {err}")
        raise
