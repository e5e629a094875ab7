"""A process of which rank 1 falls asleep in the forward of its third step, as torchrun starts it."""

from __future__ import annotations

import time
from typing import Any

from mmpref.cli.main import entry_point
from mmpref.training.trainer.trainer import PreferenceTrainer

real = PreferenceTrainer._logps


def sleepy(self: PreferenceTrainer, *given: Any) -> Any:
    if self.world.rank == 1 and self.state.global_step == 2:
        time.sleep(25)
    return real(self, *given)


if __name__ == "__main__":
    PreferenceTrainer._logps = sleepy  # type: ignore[method-assign]
    entry_point()
