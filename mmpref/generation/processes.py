"""Several processes of this machine answer together, each with a model of its own and a share of the questions."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path

from mmpref.errors import ConfigError, DistributedError, MMPrefError
from mmpref.generation.contract import Answerer, deal, failure_codes_of, failures_of
from mmpref.generation.in_process import TransformersAnswerer
from mmpref.generation.model_source import ModelSource
from mmpref.generation.settings import AnswerSettings
from mmpref.process.children import begin_child, start_helpers, starting_workers
from mmpref.records import Answer, EvalSample


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessesAnswerer:
    """``num`` processes, on the CUDA devices in turn, else on the CPU with its cores shared between them.

    Only this process writes: the others send their answers here and end when it ends, however it ends.

    Args:
        source: the model.
        num: how many processes.
        images_root: relative image paths start here.
        settings: of the answerers; a device that is not named is dealt, and threads are shared.
        kind: what each process makes of the source, the settings and ``images_root``: ``TransformersAnswerer``,
            ``LikelihoodAnswerer``, or ``functools.partial(SamplingAnswerer, sampling=...)``.

    Attributes:
        failures: why samples got no answer, by their id, as the processes say.
        failure_codes: the same in a word.
    """

    source: ModelSource
    num: int
    images_root: Path | None = None
    settings: AnswerSettings = field(default_factory=AnswerSettings)
    kind: Callable[..., Answerer] = TransformersAnswerer
    failures: dict[str, str] = field(default_factory=dict, init=False)
    failure_codes: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ConfigError(f"processes must be >= 1, got {self.num}")

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """Answers of all processes, as they come.

        Raises:
            MMPrefError: a process raised it.
            DistributedError: a process ended before its share was answered.
        """
        shares = [share for share in deal(samples, self.num) if share]
        context = get_context("spawn")
        start_helpers("spawn")
        processes, pipes = [], []
        try:
            for number, share in enumerate(shares):
                here, there = context.Pipe(duplex=False)
                arguments = (there, self, share, number, len(shares))
                process = context.Process(target=_work, args=arguments, daemon=True, name=f"eval {number}")
                with starting_workers():
                    process.start()
                there.close()  # else the end of the process would not be the end of the pipe
                processes.append(process)
                pipes.append(here)
            yield from self._gather(pipes)
        finally:
            for process in processes:
                process.kill()  # none has anything to save, and one that is stuck hears nothing else
            for process in processes:
                process.join()

    def _gather(self, pipes: list[Connection]) -> Iterator[Answer]:
        """Answers as they come; an error of any process is raised here, and why samples got none is noted."""
        open_pipes, finished = list(pipes), 0
        while open_pipes:
            for ready in connection.wait(open_pipes):
                assert isinstance(ready, Connection)
                try:
                    message = ready.recv()
                except EOFError:
                    open_pipes.remove(ready)
                    continue
                if isinstance(message, Answer):
                    yield message
                elif isinstance(message, MMPrefError):
                    raise message
                elif isinstance(message, str):
                    raise RuntimeError(f"a process that answers failed:\n{message}")
                else:
                    failures, codes = message
                    self.failures.update(failures)
                    self.failure_codes.update(codes)
                    finished += 1
        if finished < len(pipes):
            raise DistributedError(
                f"{len(pipes) - finished} of {len(pipes)} processes ended without a message, perhaps killed for their "
                "memory; what was answered is kept: run again to go on, with fewer processes if memory is short"
            )


def _work(pipe: Connection, shared: ProcessesAnswerer, samples: list[EvalSample], number: int, total: int) -> None:
    """What process ``number`` of ``total`` does: answer its share, and send the answers, then an error or why samples
    got none."""
    begin_child()
    try:
        try:
            import torch

            devices = torch.cuda.device_count()
            settings = replace(
                shared.settings,
                device=shared.settings.device or (f"cuda:{number % devices}" if devices else None),
                cpu_threads=shared.settings.cpu_threads or max(1, (os.cpu_count() or 1) // total),
            )
            answerer = shared.kind(shared.source, settings, images_root=shared.images_root)
            for answer in answerer.answer(samples):
                pipe.send(answer)
            pipe.send((dict(failures_of(answerer)), dict(failure_codes_of(answerer))))
        except MMPrefError as err:
            pipe.send(_plain(err))
        except BrokenPipeError:
            raise
        except Exception:
            pipe.send(traceback.format_exc())
    except BrokenPipeError:
        return  # the first process is gone: nobody needs these answers


def _plain(err: MMPrefError) -> MMPrefError:
    """An error that can travel: of the nearest class that is built from a message alone."""
    import pickle

    try:
        pickle.loads(pickle.dumps(err))
    except Exception:
        found = MMPrefError(str(err))
        found.exit_code = err.exit_code
        return found
    return err
