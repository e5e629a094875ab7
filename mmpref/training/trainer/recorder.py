"""The statistics of a training: means for the log, every pair's own values for the analyses, evaluations by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from mmpref.records import PreferencePair
from mmpref.training.trainer.breakdown import Breakdown
from mmpref.training.trainer.metrics import Gather, Meter, list_of_one
from mmpref.training.trainer.pair_log import PairLog, read_pair_table

PAIRS = "pairs.parquet"
EVAL_PAIRS = "pairs_eval.parquet"
_NO_FACTS: Mapping[str, Tensor] = {}


class StatsRecorder:
    """Collects what the objective says of each pair, in training and in evaluations.

    Args:
        gather: what each rank has, given what this one has; every rank must call together what flushes or takes.
        share: of the training pairs whose own values are kept; means are over all of them, and held-out pairs are
            kept always.

    Attributes:
        meter: means of the training pairs since the last log line.
        pair_log: the kept training pairs' values, by step.
        eval_log: every held-out pair's values, by step.
    """

    def __init__(self, gather: Gather = list_of_one, *, share: float = 1.0) -> None:
        self._gather = gather
        self.meter = Meter()
        self.pair_log = PairLog(gather, share=share)
        self.eval_log = PairLog(gather)

    def add(
        self, step: int, pair_ids: Sequence[str], stats: Mapping[str, Tensor], facts: Mapping[str, Tensor] = _NO_FACTS
    ) -> None:
        """A micro-batch of training.

        Args:
            stats: [B] each, detached.
            facts: what else stands in a pair's row, [B] each: no means are made of it.
        """
        self.meter.add(stats)
        self.pair_log.add(step, pair_ids, {**stats, **facts})

    def take_means(self) -> dict[str, float]:
        """Means of the training pairs since the last call, over all ranks; their own values go to the host with it."""
        means = self.meter.take(self._gather)
        self.pair_log.flush()
        return means

    @contextmanager
    def evaluation(self, step: int, pairs: Sequence[PreferencePair]) -> Iterator[EvaluationStats]:
        """Statistics of one evaluation; left by an exception, none of its pairs is in ``eval_log``.

        Args:
            step: after which it is made.
            pairs: the held-out pairs, for the means by source and by score gap.
        """
        try:
            yield EvaluationStats(self._gather, self.eval_log, step, pairs)
        except BaseException:
            self.eval_log.drop_pending()  # half an evaluation is none
            raise

    # ---- in a checkpoint --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Move the values of all ranks to the host of the first."""
        for log in (self.pair_log, self.eval_log):
            log.flush()

    def write(self, folder: Path) -> None:
        """Write every pair's values into a checkpoint, after :meth:`flush`."""
        self.pair_log.write(folder / PAIRS)
        self.eval_log.write(folder / EVAL_PAIRS)

    def restore(self, folder: Path) -> None:
        """Start from the values in a checkpoint.

        Raises:
            CheckpointError: a file cannot be read.
        """
        self.pair_log.restore(read_pair_table(folder / PAIRS))
        self.eval_log.restore(read_pair_table(folder / EVAL_PAIRS))


class EvaluationStats:
    """The statistics of one evaluation while it runs."""

    def __init__(self, gather: Gather, log: PairLog, step: int, pairs: Sequence[PreferencePair]) -> None:
        self._gather, self._log, self._step = gather, log, step
        self._meter, self._breakdown = Meter(), Breakdown(pairs)

    def add(
        self, pair_ids: Sequence[str], stats: Mapping[str, Tensor], facts: Mapping[str, Tensor] = _NO_FACTS
    ) -> None:
        """Statistics [B] of a batch, and what else stands in the rows of its pairs."""
        self._meter.add(stats)
        self._breakdown.add(pair_ids, stats)
        self._log.add(self._step, pair_ids, {**stats, **facts})

    def take(self) -> dict[str, float]:
        """Means over the pairs of all ranks, in all and by group."""
        self._log.flush()
        return {**self._meter.take(self._gather), **self._breakdown.take(self._gather)}
