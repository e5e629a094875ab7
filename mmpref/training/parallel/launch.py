"""``mmpref train --launch``: the same command in several processes, by accelerate's launcher and a profile.

A profile is a configuration file of accelerate. Ours are in ``scripts/accelerate/``, to be read and changed;
``--launch FILE`` takes one of your own.
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
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from mmpref.errors import DistributedError, StoppedError, library_errors, signal_name
from mmpref.files.reading import read_text
from mmpref.process.signals import end_children, numbers
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import RunDir
from mmpref.rundir.train_log import append, stamped
from mmpref.training.parallel.strategy import (
    ASKED,
    RESTARTS,
    STRATEGIES,
    Strategy,
    refuse_contradictions,
    refuse_what_cannot_shard,
)
from mmpref.training.precision import resolved
from mmpref.yaml_text import MOST_BYTES, parse_yaml

_TO_SAVE = 600
"""Seconds that ranks have for their checkpoint once they were told to stop; torch's default of 30 would cut it off."""
PROFILES = "accelerate"
"""Folder of the profiles, under ``scripts/`` in the source tree and ``share/mmpref/`` where mmpref is installed."""


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
        max_restarts: so often all processes are started again when one was killed or lost, from the newest complete
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
        say: told when all are started again.

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
    refuse_contradictions(recipe, environment_of(profile, strategy))
    refuse_what_cannot_shard(recipe, strategy)
    _refuse_missing(strategy)
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
    """What ended a rank that could not say so itself, into the log of the run; not into that of an earlier one."""
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
            cause = f"ended with exit code {code}; its message stands above"
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
    follows = (DistributedError.exit_code, -signal.SIGTERM)
    found = sorted(failed.failures.items(), key=lambda item: (item[1].exitcode in follows, item[1].timestamp, item[0]))
    return found[0][0], found[0][1].exitcode


def read_profile(name: str) -> tuple[dict[str, Any], Strategy]:
    """A profile and the strategy that it stands for.

    Raises:
        DistributedError: there is none of this name, or it is for something that this trainer does not do.
    """
    file = shipped_profile(name) if name in STRATEGIES else Path(name)
    if not file.exists():
        raise DistributedError(f"--launch {name}: neither one of {', '.join(STRATEGIES)} nor a file")
    profile = parse_yaml(read_text(file, DistributedError, "the launch profile", most=MOST_BYTES), where=str(file))
    if not isinstance(profile, dict):
        raise DistributedError(f"{file} is not a configuration of accelerate: expected keys and values")
    for name in ("fsdp_config", "deepspeed_config"):
        if not isinstance(profile.setdefault(name, {}), dict):
            raise DistributedError(f"{file}: {name} must hold keys and values, got {profile[name]!r}")
    strategy = _strategy(profile, file)
    with library_errors(DistributedError, f"{file}: accelerate refuses this profile", "see docs/multi_gpu.md"):
        load_config_from_file(str(file))
    return profile, strategy


def shipped_profile(name: str) -> Path:
    """The file of one of our profiles."""
    tree = Path(__file__).resolve().parents[3] / "scripts" / PROFILES / f"{name}.yaml"
    if tree.is_file():
        return tree
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("mmpref") or []:
            if file.parent.name == PROFILES and file.name == f"{name}.yaml":
                return Path(str(file.locate()))
    return tree


def _strategy(profile: dict[str, Any], file: Path) -> Strategy:
    kind = str(profile.get("distributed_type", "")).upper()
    if kind == "MULTI_GPU":
        return "ddp"
    if kind == "FSDP":
        if str(profile["fsdp_config"].get("fsdp_version", 1)) != "2":
            raise DistributedError(f"{file}: FSDP1 is not for this trainer; set fsdp_config.fsdp_version: 2")
        return "fsdp2"
    if kind == "DEEPSPEED":
        stage = profile["deepspeed_config"].get("zero_stage")
        if stage not in (2, 3):
            raise DistributedError(f"{file}: deepspeed_config.zero_stage must be 2 or 3, got {stage}")
        return "zero2" if stage == 2 else "zero3"
    raise DistributedError(
        f"{file}: distributed_type {kind or 'is not there'}; use MULTI_GPU, FSDP or DEEPSPEED (accelerate runs a "
        "single process for MULTI_CPU: MULTI_GPU is what starts several on the CPU too)"
    )


def environment_of(profile: dict[str, Any], strategy: str) -> dict[str, str]:
    """What the launcher will tell its processes, as far as a recipe can contradict it."""
    fsdp = profile.get("fsdp_config", {})
    said = {
        "ACCELERATE_USE_FSDP": strategy == "fsdp2",
        "ACCELERATE_USE_DEEPSPEED": strategy.startswith("zero"),
        "FSDP_ACTIVATION_CHECKPOINTING": bool(fsdp.get("fsdp_activation_checkpointing", False)),
    }
    deepspeed = profile.get("deepspeed_config", {})
    return {
        **{name: str(value).lower() for name, value in said.items()},
        "ACCELERATE_MIXED_PRECISION": str(profile.get("mixed_precision", "no")),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": str(deepspeed.get("gradient_accumulation_steps", "")),
        "ACCELERATE_GRADIENT_CLIPPING": str(deepspeed.get("gradient_clipping", "auto")),
    }


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
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        raise DistributedError(
            f"--launch {strategy} needs DeepSpeed: pip install deepspeed; --launch fsdp2 needs nothing more"
        )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
