"""Several processes of this machine answer together, each with a model of its own and a share of the questions."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DistributedError, MMPrefError
from mmpref.generation.in_process import ModelSource, TransformersAnswerer
from mmpref.generation.likelihood import LikelihoodAnswerer
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
        settings: further arguments of ``kind``.
        kind: what each process makes: ``TransformersAnswerer`` or ``LikelihoodAnswerer``.
    """

    source: ModelSource
    num: int
    images_root: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    kind: type[TransformersAnswerer | LikelihoodAnswerer] = TransformersAnswerer

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ConfigError(f"processes must be >= 1, got {self.num}")

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        shares = [share for share in deal(samples, self.num) if share]
        context = get_context("spawn")
        start_helpers("spawn")
        processes, pipes = [], []
        try:
            for number, share in enumerate(shares):
                here, there = context.Pipe(duplex=False)
                arguments = (there, number, len(shares), self.kind, self.source, self.images_root, self.settings, share)
                process = context.Process(target=_work, args=arguments, daemon=True, name=f"eval {number}")
                with starting_workers():
                    process.start()
                there.close()  # else the end of the process would not be the end of the pipe
                processes.append(process)
                pipes.append(here)
            yield from _gather(pipes)
        finally:
            for process in processes:
                process.kill()  # none has anything to save, and one that is stuck would not hear less
            for process in processes:
                process.join()


def deal(samples: Sequence[EvalSample], num: int) -> list[list[EvalSample]]:
    """``num`` shares of about the same size; the questions about one image stay together, in their order."""
    groups: dict[Any, list[EvalSample]] = {}
    for sample in samples:
        groups.setdefault(sample.images or sample.id, []).append(sample)
    shares: list[list[EvalSample]] = [[] for _ in range(num)]
    for group in groups.values():
        min(shares, key=len).extend(group)
    return shares


def _gather(pipes: list[Connection]) -> Iterator[Answer]:
    """Answers as they come; an error of any process is raised here."""
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
                finished += 1
    if finished < len(pipes):
        raise DistributedError(
            f"{len(pipes) - finished} of {len(pipes)} processes ended without a word, killed perhaps for their memory; "
            "what was answered is kept: run again to go on, with fewer processes if memory is short"
        )


def _work(
    pipe: Connection,
    number: int,
    total: int,
    kind: type[TransformersAnswerer | LikelihoodAnswerer],
    source: ModelSource,
    images_root: Path | None,
    settings: dict[str, Any],
    samples: list[EvalSample],
) -> None:
    begin_child()
    try:
        try:
            import torch

            devices = torch.cuda.device_count()
            settings = {
                "device": f"cuda:{number % devices}" if devices else None,
                **settings,
                "cpu_threads": settings.get("cpu_threads") or max(1, (os.cpu_count() or 1) // total),
            }
            answerer = kind(source, images_root=images_root, **settings)
            for answer in answerer.answer(samples):
                pipe.send(answer)
            pipe.send(None)
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
