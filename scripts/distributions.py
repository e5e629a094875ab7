#!/usr/bin/env python3
"""Builds the source distribution and the wheel, and says what is wrong with them.

python scripts/distributions.py              build both from the files that git knows, into dist/, and look at them
python scripts/distributions.py --out DIR    into another folder

The wheel is made from the unpacked source distribution, so that one that lacks a file cannot be built from it either.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
SHARED = {
    "data_cards/": ("data_cards/", {".md"}),
    "scripts/accelerate/": ("accelerate/", {".yaml"}),
    "docs/": ("docs/", {".md", ".svg", ".png", ".ipynb"}),
}
"""Folder of the repository -> its place below share/mmpref, and the endings that are installed."""
_NOT_IN_SDIST = (".", "Dockerfile")
"""How names begin that are of no use outside the repository."""


class BuildError(Exception):
    """Why there are no distributions, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributions:
    """Both files."""

    wheel: Path
    sdist: Path


def main() -> int:
    """Build, look, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder (default: dist)")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = copy_tree(ROOT, Path(folder) / "source")
            made = built(source, Path(folder) / "dist")
            print("\n".join(described(keep(made, options.out))))
    except BuildError as err:
        print(f"distributions: {err}", file=sys.stderr)
        return 1
    return 0


def own_files(root: Path) -> list[str]:
    """The files of a repository by name: those that git knows, and those that it would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return sorted(name for name in listed.stdout.split("\0") if name and (root / name).is_file())


def copy_tree(root: Path, to: Path, changed: Mapping[str, str] | None = None) -> Path:
    """A copy of those files alone: nothing that an earlier build left is in it. ``changed``: name -> other content."""
    for name in own_files(root):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name)
    for name, text in (changed or {}).items():
        (to / name).write_text(text, encoding="utf-8")
    return to


def built(source: Path, out: Path) -> Distributions:
    """Build both from a copy of the tree, and look at them.

    Raises:
        BuildError: the build failed, or what came out is not what the tree says.
    """
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    build(source, out)
    made = Distributions(wheel=next(out.glob("*.whl")), sdist=next(out.glob("*.tar.gz")))
    if found := faults(made, source, names):
        raise BuildError("; ".join(found))
    return made


def build(source: Path, out: Path, *what: str) -> None:
    """Run the build; ``what`` is ``--wheel``, ``--sdist``, or nothing: the sdist, and the wheel from it.

    Raises:
        BuildError: with the end of what it said.
    """
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out), str(source)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"the build failed: {' '.join((done.stdout + done.stderr).split())[-600:]}")


def faults(made: Distributions, source: Path, names: Iterable[str]) -> list[str]:
    """What is wrong with both.

    Args:
        made: the files.
        source: the tree that they were built from.
        names: its files.
    """
    names = list(names)
    version = re.search(r'^__version__ = "([^"]+)"$', (source / "mmpref/version.py").read_text("utf-8"), re.MULTILINE)
    assert version is not None, "mmpref/version.py has no line __version__ = ..."
    wheel, expected = in_wheel(made.wheel), expected_in_wheel(names)
    content = {name for name in wheel if ".dist-info/" not in name}
    found = [f"the wheel lacks {name}" for name in sorted(expected.keys() - content)]
    found += [f"the wheel has {name}, which is none of its files" for name in sorted(content - expected.keys())]
    for name in sorted(content & expected.keys()):
        if wheel[name] != (source / expected[name]).read_bytes():
            found.append(f"{name} in the wheel is not the tree's {expected[name]}")
    inside = in_sdist(made.sdist)
    wanted = {name for name in names if not name.startswith(_NOT_IN_SDIST)}
    found += [f"the source distribution lacks {name}" for name in sorted(wanted - inside)]
    found += [f"the source distribution has {name}, which is none of its files" for name in sorted(inside - wanted)]
    return found + _faults_of_metadata(wheel, made.wheel.name, version[1], (source / "README.md").read_text("utf-8"))


def _faults_of_metadata(wheel: Mapping[str, bytes], file: str, version: str, readme: str) -> list[str]:
    """What an index would refuse or show wrongly."""
    (content,) = (text for name, text in wheel.items() if name.endswith(".dist-info/METADATA"))
    said = Parser().parsestr(content.decode("utf-8"))
    wanted = {
        "Name": "mmpref",
        "Version": version,
        "License-Expression": "Apache-2.0",
        "Requires-Python": ">=3.11",
        "Description-Content-Type": "text/markdown",
    }
    found = [
        f"the metadata says {key}: {said[key]}, want {value}" for key, value in wanted.items() if said[key] != value
    ]
    if said.get_payload() != readme:
        found.append("the description in the metadata is not README.md")
    if len(said["Summary"] or "") > 512 or "\n" in (said["Summary"] or "\n"):
        found.append("the summary must be one line of at most 512 characters")
    if not file.startswith(f"mmpref-{version}-py3-none-any"):
        found.append(f"the wheel is called {file}, want mmpref-{version}-py3-none-any.whl")
    return found


def in_wheel(wheel: Path) -> dict[str, bytes]:
    """Name -> content; what belongs below sys.prefix is called share/..."""
    with zipfile.ZipFile(wheel) as archive:
        return {re.sub(r"^[^/]+\.data/data/", "", name): archive.read(name) for name in archive.namelist()}


def expected_in_wheel(names: Iterable[str]) -> dict[str, str]:
    """Name in the wheel -> name in the tree: every file of the package, and those beside it that an installed mmpref
    reads or names."""
    found = {}
    for name in names:
        if name.startswith("mmpref/") and not PurePosixPath(name).name.startswith("."):
            found[name] = name
        for folder, (place, endings) in SHARED.items():
            below = PurePosixPath(name.removeprefix(folder))
            if name.startswith(folder) and below.suffix in endings and not below.parts[0].startswith("_"):
                found[f"share/mmpref/{place}{below}"] = name
    return found


def in_sdist(sdist: Path) -> set[str]:
    """The files of a source distribution, without those that the build adds."""
    with tarfile.open(sdist) as archive:
        found = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    return {name for name in found if ".egg-info/" not in name} - {"PKG-INFO", "setup.cfg"}


def keep(made: Distributions, folder: Path) -> Distributions:
    """Copy both into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [Path(shutil.copy2(file, folder / file.name)) for file in (made.wheel, made.sdist)]
    return Distributions(wheel=kept[0], sdist=kept[1])


def described(made: Distributions) -> list[str]:
    """A line for each: its SHA-256, size and place."""
    files = [(file, file.read_bytes()) for file in (made.sdist, made.wheel)]
    return [f"{hashlib.sha256(data).hexdigest()}  {len(data):,} bytes  {file}" for file, data in files]


if __name__ == "__main__":
    sys.exit(main())
