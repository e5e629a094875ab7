"""Every benchmark of results/bench/benchmarks.yaml by one command, and what each printed as a file.

    python scripts/bench.py --list                    names, what they compare, their commands
    python scripts/bench.py                           all that need nothing else, one after the other; hours on a CPU
    python scripts/bench.py --only pair_step data     these
    python scripts/bench.py --only scoring --data FOLDER        --only commits --checkout FOLDER

Each runs in a process of its own with one thread, and leaves results/bench/NAME.json (``--out``): its lines, its exit
code, its processor seconds, and the commit, day, CPU and library versions that they hold for. Ends with 1 where one
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmpref.files.writing import write_text
from mmpref.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "bench"
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "pillow", "numpy")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def benchmarks(folder: Path = RESULTS) -> dict[str, dict[str, str]]:
    """Name -> what, command, what was told where; ``needs`` where its command has a word to be filled in."""
    file = folder / "benchmarks.yaml"
    found: dict[str, dict[str, str]] = parse_yaml(file.read_text(encoding="utf-8"), where=file.name)["benchmarks"]
    return found


def run(name: str, words: list[str]) -> dict[str, Any]:
    """Run it; its lines come as they are printed, and are kept."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *words]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(f"{name}: {line}", end="", flush=True)
            lines.append(line.rstrip("\n"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "name": name,
        "command": shlex.join(["python", *words]),
        "exit_code": process.returncode,
        "cpu_seconds": round(used, 1),
        "lines": lines,
        **machine(),
    }


def machine() -> dict[str, Any]:
    """What a figure holds for."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    state = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return {
        "commit": head.stdout.strip() + (" and changes" if state.stdout.strip() else ""),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": cpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def words_of(benchmark: Mapping[str, str], filled: Mapping[str, Path | None]) -> list[str] | None:
    """The command, with what the user gave in place of its capital words; None where something lacks."""
    words: list[str] = []
    for word in shlex.split(benchmark["command"]):
        if word in filled:
            given = filled[word]
            if given is None:
                return None
            word = str(given.resolve())
        words.append(word)
    return words


def main() -> int:
    """List them, or run them."""
    known = benchmarks()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(known), metavar="NAME")
    parser.add_argument("--data", type=Path, help="folder of public question files, for scoring")
    parser.add_argument("--checkout", type=Path, help="folder with another commit, for commits")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.list:
        for name, benchmark in known.items():
            print(f"{name:<16} {benchmark['what']}\n{'':<16} python {benchmark['command']}")
        return 0
    failed = []
    for name in options.only or known:
        words = words_of(known[name], {"BENCH_DATA": options.data, "CHECKOUT": options.checkout})
        if words is None:
            print(f"{name}: not run, it needs {known[name]['needs']}")
            failed += [name] if options.only else []
            continue
        found = run(name, words)
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / f"{name}.json", json.dumps(found, indent=1) + "\n")
        failed += [name] if found["exit_code"] else []
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
