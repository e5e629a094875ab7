"""The file that a run of ``scripts/gpu_check.py`` leaves: what it ran on, and the rows of every part.

::

    {"schema": 1, "date": "2026-11-28", "commit": "...", "source": "sha256 of the code", "dry_run": false,
     "minutes": 8.0, "seconds": 431.2, "environment": {"card": ..., "driver": ..., "libraries": {...}, "notes": [...]},
     "parts": {"pair_step": {"status": "done", "seconds": 170.2, "rows": [{"case": ..., ...}, ...]}, ...}}

``status`` is ``done``, ``stopped`` (its time was up, or the run was stopped), ``failed`` (its process died) or
``running``; all but the first have ``why``.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.files.writing import write_text

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "results" / "gpu"
"""Where results are committed; ``scripts/make_gpu_page.py`` reads them there."""


@dataclass(kw_only=True)
class Results:
    """One results file, written anew whenever something was found."""

    path: Path
    facts: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def begin(self, part: str) -> None:
        self.parts[part] = {"status": "running", "why": "the run was stopped while this part ran", "rows": []}
        self.write()

    def add(self, part: str, row: dict[str, Any]) -> None:
        self.parts[part]["rows"].append(row)
        self.write()

    def end(self, part: str, status: str, seconds: float, why: str = "") -> None:
        found = self.parts[part]
        found.pop("why", None)
        found |= {"status": status, "seconds": round(seconds, 1), **({"why": why} if why else {})}
        self.write()

    def write(self) -> None:
        """Whole or not at all: a run that is killed leaves what it had found."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps({**self.facts, "parts": self.parts}, indent=1) + "\n")


def new_results(path: Path | None, *, dry_run: bool, minutes: float, commit: str | None, card: str) -> Results:
    """An empty results file; without a path, in :data:`FOLDER` under the time and the card's name."""
    now = datetime.datetime.now(datetime.UTC)
    found, dirty = (commit, False) if commit else _commit()
    facts = {
        "schema": SCHEMA, "date": now.date().isoformat(), "started": now.isoformat(timespec="seconds"),
        "commit": found, "changed_since_commit": dirty, "source": source_hash(), "dry_run": dry_run,
        "minutes": minutes,
    }  # fmt: skip
    if path is None:
        name = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
        path = FOLDER / f"{now:%Y-%m-%dT%H%M}-{name}.json"
    return Results(path=path, facts=facts)


def read_results(path: Path) -> dict[str, Any]:
    """A results file.

    Raises:
        ValueError: it is none; names the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:  # of the text or of its bytes
        raise ValueError(f"{path} is not a results file of gpu_check.py: {err}") from err
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("parts"), dict):
        raise ValueError(f"{path} is not a results file of gpu_check.py, schema {SCHEMA}")
    if missing := [name for name in ("date", "started", "dry_run", "commit", "environment") if name not in found]:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which gpu_check.py writes")
    return found


def without_folders(value: Any, work: Path | None = None) -> Any:
    """The same without names of this machine's folders and of who works on it: the file is for everybody.

    Args:
        work: a folder for files that are thrown away.
    """
    if isinstance(value, dict):
        return {without_folders(name, work): without_folders(one, work) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one, work) for one in value]
    if not isinstance(value, str):
        return value
    folders = [
        (work, "WORK"),
        (ROOT, "."),
        (Path(tempfile.gettempdir()), "TMP"),
        (Path(os.environ.get("HOME", "")), "~"),
    ]
    if (torch := importlib.util.find_spec("torch")) is not None:
        folders += [(Path(place).parent, "SITE") for place in torch.submodule_search_locations or ()]
    for folder, name in sorted(folders, key=lambda one: -len(str(one[0]))):
        if folder is not None and len(folder.parts) > 1:
            value = re.sub(rf"(?<![\w.~-]){re.escape(str(folder))}(?![\w.-])", name, value)
    return re.sub(r"pytest-of-[^/\s]+", "pytest-of-USER", re.sub(r"/(home|Users)/[^/\s'\"]+", r"/\1/USER", value))


def source_hash() -> str:
    """One hash of all code that is measured: it names the code where there is no commit (a copied tree)."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "mmpref").rglob("*.py"), *(ROOT / "scripts" / "gpu_parts").glob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _commit() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it); (None, None) outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    if not (ROOT / ".git").exists():  # a copy; a folder around it may be a checkout of something else
        return None, None
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None, None
    return head, bool(changed)
