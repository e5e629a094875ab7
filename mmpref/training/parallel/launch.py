"""``mmpref train --launch``: the same command in several processes, started by accelerate with a launch profile.

A launch profile is a configuration file of accelerate. Ours are in ``scripts/accelerate/``; ``--launch FILE`` takes
another one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from mmpref.errors import DistributedError, StoppedError, signal_name
from mmpref.installation import lacking
from mmpref.process.signals import end_children, numbers
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import RunDir
from mmpref.rundir.train_log import append, stamped
from mmpref.training.parallel.profiles import environment_of, read_profile
from mmpref.training.parallel.strategy import (
    ASKED,
    RESTARTS,
    Strategy,
    refuse_launch_contradictions,
    refuse_what_cannot_shard,
)
from mmpref.training.precision import resolved

_TO_SAVE = 600
"""Seconds that ranks have for their checkpoint after a signal; torch's default of 30 is too short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How many processes, where, and by which profile.

    Args:
        profile: ``ddp``, ``fsdp2``, ``zero2`` or ``zero3``, or a configuration file of accelerate.
        processes: on each machine; None takes one for each GPU, and on a machine without any the cores say nothing, so
            the number must be given.
        nodes: machines.
        node_rank: number of this machine.
        main_address: ``host:port`` of machine 0, where there are several.
        max_restarts: how often all processes are started again when one was killed or lost, from the newest complete
            checkpoint. torchrun's own restarts are not used: over gloo the processes do not find each other again.
    """

    profile: str
    processes: int | None = None
    nodes: int = 1
    node_rank: int = 0
    main_address: str | None = None
    max_restarts: int = 0


def launch(recipe: Recipe, launch: Launch, command: Sequence[str], say: Callable[[str], None] = lambda _: None) -> None:
    """Start the processes and wait for them.

    Args:
        recipe: what they will train; looked at for contradictions with the profile.
        launch: how many, and where.
        command: arguments of ``mmpref train``, without those of launching.
        say: called when all processes are started again.

    Raises:
        DistributedError: the profile does not go with the recipe or the machine, or a process failed (its own message
            is on the screen; the exit code is its).
        StoppedError: stopped by a signal.
    """
    if "WORLD_SIZE" in os.environ:
        raise DistributedError("this is one of several processes already; leave out --launch under torchrun or srun")
    recipe = resolved(recipe)
    profile, strategy = read_profile(launch.profile)
    processes = _processes(launch)
    total = processes * launch.nodes
    if total < 2:
        raise DistributedError(f"--launch {launch.profile} with one process; leave out --launch, or give --processes 2")
    if launch.nodes > 1 and launch.main_address is None:
        raise DistributedError("--nodes needs --main-address HOST:PORT of machine 0, and --node-rank on each machine")
    if not 0 <= launch.node_rank < launch.nodes:
        raise DistributedError(f"--node-rank {launch.node_rank} is not one of the {launch.nodes} machines, from 0 on")
    refuse_launch_contradictions(recipe, environment_of(profile, strategy))
    refuse_what_cannot_shard(recipe, strategy)
    _refuse_missing(strategy)
    if not torch.cuda.is_available() and not recipe.train.use_cpu:  # accelerate would start each process by itself
        raise DistributedError(
            "--launch: torch sees no GPU on this machine; for processes on the CPU write `train.use_cpu=true`"
        )
    for restarts in range(launch.max_restarts + 1):
        os.environ[RESTARTS] = str(restarts)
        try:
            _launch_once(recipe, launch, profile, strategy, total, command)
            return
        except DistributedError as err:
            if err.exit_code != DistributedError.exit_code or restarts == launch.max_restarts:
                raise
            say(f"{err}; starting all again ({restarts + 1} of {launch.max_restarts} times)")
        finally:
            del os.environ[RESTARTS]


def _launch_once(
    recipe: Recipe, launch: Launch, profile: dict[str, Any], strategy: Strategy, total: int, command: Sequence[str]
) -> None:
    host, _, port = (launch.main_address or f"127.0.0.1:{_free_port()}").partition(":")
    settings = {
        **profile,
        "num_processes": total,
        "num_machines": launch.nodes,
        "machine_rank": launch.node_rank,
        "main_process_ip": host,
        "main_process_port": int(port or 29500),
        "use_cpu": not torch.cuda.is_available(),
        "mixed_precision": "bf16" if recipe.train.bf16 else "fp16" if recipe.train.fp16 else "no",
    }
    if strategy == "fsdp2" and recipe.adapter.stored_as is not None:  # each rank quantises what it reads
        fsdp = {**profile.get("fsdp_config", {}), "fsdp_cpu_ram_efficient_loading": False}
        settings["fsdp_config"] = fsdp
    with tempfile.TemporaryDirectory(prefix="mmpref-launch-") as folder:
        file = Path(folder) / "profile.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        arguments = launch_command_parser().parse_args([
            "--config_file", str(file), "--module", "mmpref", *command,
        ])  # fmt: skip
        os.environ[ASKED] = f"{strategy}:{total}"
        os.environ["PET_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in numbers())  # not what nohup ignores
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_TO_SAVE))
        begun = time.time()
        try:
            _run(arguments)
        except DistributedError as err:
            _note(recipe, err, begun)
            raise
        finally:
            del os.environ[ASKED]


def _note(recipe: Recipe, err: DistributedError, begun: float) -> None:
    """Write into the log of this run (not of an earlier one) what ended a rank that could not report it itself."""
    log = RunDir(recipe.output).log_file
    with suppress(OSError):
        if err.exit_code == DistributedError.exit_code and log.stat().st_mtime >= begun:
            append(log, stamped(f"error: {err}"))


def train_command(
    recipe: str, overrides: Sequence[str], *, resume: bool, overwrite: bool, allow_data_change: bool
) -> list[str]:
    """Arguments of the ``mmpref train`` that every process runs."""
    flags = {"--resume": resume, "--overwrite": overwrite, "--allow-data-change": allow_data_change}
    return ["train", recipe, *overrides, *(flag for flag, given in flags.items() if given)]


def _run(arguments: Any) -> None:
    try:
        launch_command(arguments)
    except ChildFailedError as err:
        rank, code = _cause(err)
        if code - 128 in {int(number) for number in signal.Signals}:
            raise StoppedError(f"stopped by {signal_name(code - 128)}; go on with --resume", code - 128) from None
        if code == -signal.SIGKILL:
            cause = "was killed (SIGKILL), as the system does when a machine's memory runs out"
        elif code < 0:
            cause = f"was ended by {signal.Signals(-code).name}"
        else:
            cause = f"ended with exit code {code}; its message is above"
        error = DistributedError(f"rank {rank} {cause}")
        error.exit_code = code if code > 0 else error.exit_code
        raise error from None
    except SignalException as err:
        end_children()  # none is left, unless somebody did not want to wait
        raise StoppedError(f"stopped by {signal_name(err.sigval)}; go on with --resume", int(err.sigval)) from None


def _cause(failed: ChildFailedError) -> tuple[int, int]:
    """(rank, exit code) of the process that ended the others.

    Those that only lost a partner, or were ended by the launcher because of it, are found dead in the same second often
    enough.
    """
    follows = {128 + signal.SIGTERM: 1, DistributedError.exit_code: 2, -signal.SIGTERM: 2}
    found = sorted(
        failed.failures.items(), key=lambda item: (follows.get(item[1].exitcode, 0), item[1].timestamp, item[0])
    )
    return found[0][0], found[0][1].exitcode


def _processes(launch: Launch) -> int:
    gpus = torch.cuda.device_count()
    if launch.processes is None:
        if not gpus:
            raise DistributedError("there is no GPU here; say how many processes with --processes N")
        return gpus
    if gpus and launch.processes > gpus:
        raise DistributedError(f"--processes {launch.processes} and {gpus} GPUs: each process needs one of its own")
    return launch.processes


def _refuse_missing(strategy: str) -> None:
    """Of a profile of the user's own; where the strategy is named, the command line has looked already."""
    if strategy.startswith("zero") and (message := lacking("deepspeed", f"--launch {strategy}")) is not None:
        raise DistributedError(f"{message}, or --launch fsdp2, which needs nothing more")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
