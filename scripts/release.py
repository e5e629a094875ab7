#!/usr/bin/env python3
"""A release in one command: checks, release notes, version, commit, tag, wheel and source distribution.

python scripts/release.py 0.2.0              check everything, set the version, commit, tag v0.2.0 and fill dist/
python scripts/release.py 0.2.0 --dry-run    the same checks and builds, shown; nothing is changed

The notes are the section "Unreleased" of CHANGELOG.md, which gets the version and the date as its heading. Both
distributions are built from the tree as it will be tagged, and looked at, before anything is written. Nothing is pushed
or uploaded: the commands that do are printed at the end. The checklist is docs/releasing.md.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from distributions import BuildError, Distributions, built, copy_tree, described, keep

ROOT = Path(__file__).resolve().parent.parent
VERSION, CITATION, CHANGELOG = "mmpref/version.py", "CITATION.cff", "CHANGELOG.md"
_UNRELEASED = re.compile(r"^## (?:Unreleased|(?P<version>\S+) \(unreleased\))[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^## ", re.MULTILINE)


class ReleaseError(Exception):
    """Why there is no release, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What is written: the notes, and the new content of each file."""

    version: str
    notes: str
    files: dict[str, str]

    @property
    def tag(self) -> str:
        """Name of the tag."""
        return f"v{self.version}"


def main() -> int:
    """Parse the command line, release, and print what is left to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="three numbers, such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="change nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    parser.add_argument(
        "--check",
        default=shlex.join([sys.executable, "scripts/check.py"]),
        metavar="COMMAND",
        help="what has to pass (default: scripts/check.py)",
    )
    options = parser.parse_args()
    try:
        refuse_dirty(options.root)
        release = prepared(options.root, options.version, datetime.date.today())
        refuse_known_tag(options.root, release.tag)
        if subprocess.run(shlex.split(options.check), cwd=options.root, check=False).returncode:
            raise ReleaseError(f"the checks failed ({options.check}); repair that first")
        refuse_dirty(options.root)  # the checks may have written something
        with tempfile.TemporaryDirectory() as folder:
            source = copy_tree(options.root, Path(folder) / "source", release.files)
            made = built(source, Path(folder) / "dist")
            if options.dry_run:
                print("\n".join(described(made)))
            else:
                commit(options.root, release)
                made = keep(made, options.root / "dist")
    except (ReleaseError, BuildError) as err:
        print(f"release: {err}", file=sys.stderr)
        return 1
    print(f"\n{release.notes}\n")
    if options.dry_run:
        print(f"dry run: {', '.join(release.files)} would be changed, committed and tagged {release.tag}")
    else:
        print("\n".join(described(made)))
        print("committed, tagged and built; to publish (docs/releasing.md has the whole list):")
        print("\n".join(f"  {shlex.join(command)}" for command in to_publish(release, made)))
    return 0


def to_publish(release: Release, made: Distributions) -> list[list[str]]:
    """The commands that are left: they reach others, so they are not run here."""
    push = ["git", "push", "origin", "HEAD", release.tag]
    return [push, ["python", "-m", "twine", "upload", str(made.sdist), str(made.wheel)]]


def prepared(root: Path, version: str, day: datetime.date) -> Release:
    """The release as it will be written.

    Raises:
        ReleaseError: no such version can follow, or there is nothing to release.
    """
    wanted = numbers(version)
    read = {name: (root / name).read_text(encoding="utf-8") for name in (VERSION, CITATION, CHANGELOG)}
    now = re.search(r'^__version__ = "([^"]+)"$', read[VERSION], re.MULTILINE)
    if now is None:
        raise ReleaseError(f"{VERSION} has no line __version__ = ...")
    changes = read[CHANGELOG]
    heading = _UNRELEASED.search(changes)
    if heading is None:
        raise ReleaseError(f'{CHANGELOG} has no section "## Unreleased"; nothing is new')
    is_first = heading["version"] == now[1]  # the version of the tree was never released
    if wanted < numbers(now[1]) or (wanted == numbers(now[1]) and not is_first):
        raise ReleaseError(f"{version} does not follow {now[1]}; give a later version")
    following = _HEADING.search(changes, heading.end())
    notes = changes[heading.end() : following.start() if following else len(changes)].strip()
    if not notes:
        raise ReleaseError(f'the section "Unreleased" of {CHANGELOG} is empty; write what changed for users')
    dated = f"## Unreleased\n\n## {version} ({day.isoformat()})"
    return Release(
        version=version,
        notes=notes,
        files={
            VERSION: read[VERSION].replace(now[0], f'__version__ = "{version}"'),
            CITATION: re.sub(r"^version: .*$", f"version: {version}", read[CITATION], flags=re.MULTILINE),
            CHANGELOG: changes[: heading.start()] + dated + changes[heading.end() :],
        },
    )


def numbers(version: str) -> tuple[int, ...]:
    """``0.2.0`` as numbers to compare."""
    if re.fullmatch(r"\d+\.\d+\.\d+", version) is None:
        raise ReleaseError(f"{version!r} is no version; give three numbers, such as 0.2.0")
    return tuple(map(int, version.split(".")))


def refuse_dirty(root: Path) -> None:
    """Raise where git knows of changes, or of files that it does not know."""
    if changed := git(root, "status", "--porcelain"):
        raise ReleaseError(
            f"the tree is not clean ({changed.splitlines()[0].strip()}, ...); commit or remove that first"
        )


def refuse_known_tag(root: Path, tag: str) -> None:
    """Raise where the tag exists."""
    if git(root, "tag", "--list", tag):
        raise ReleaseError(f"the tag {tag} exists already; give a later version")


def commit(root: Path, release: Release) -> None:
    """Write the files, commit them and tag the commit with the notes; where git refuses, the files are as before."""
    for name, text in release.files.items():
        (root / name).write_text(text, encoding="utf-8")
    try:
        git(root, "commit", "--quiet", "--message", f"Release {release.version}", "--", *release.files)
    except ReleaseError:
        git(root, "checkout", "--quiet", "HEAD", "--", *release.files)
        raise
    message = f"mmpref {release.version}\n\n{release.notes}\n"
    git(root, "tag", "--annotate", "--cleanup=verbatim", "--message", message, release.tag)


def git(root: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        ReleaseError: it failed.
    """
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
