"""A process of which rank 1 falls asleep before its third step, as torchrun starts it."""

from __future__ import annotations

import sys
import time
from typing import Any

from mmpref.cli import main
from mmpref.training.trainer import PreferenceTrainer

real = PreferenceTrainer.training_step


def sleepy(self: PreferenceTrainer, model: Any, inputs: Any, num_items: Any = None) -> Any:
    if self.world.rank == 1 and self.state.global_step == 2:
        time.sleep(25)
    return real(self, model, inputs, num_items)


if __name__ == "__main__":
    PreferenceTrainer.training_step = sleepy  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
