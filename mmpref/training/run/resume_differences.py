"""All differences between a checkpoint and the run that resumes from it, each with what to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpref.errors import CheckpointError
from mmpref.rundir.content import COMPLETE
from mmpref.rundir.folder import RunDir
from mmpref.training.run.images import RunImages

_NAMED = 5
"""Files of one kind that are named before the rest is counted."""
_START = {"model.files": "model", "processor.files": "processor, tokenizer or template", "adapter.files": "adapter"}


class Differences:
    """Collects what changed between a checkpoint and the run that resumes from it.

    Attributes:
        notes: changes that are no reason to stop.
    """

    def __init__(self, checkpoint: Path, run: RunDir) -> None:
        self.checkpoint = checkpoint
        self.run = run
        self.notes: list[str] = []
        self._refused: list[tuple[str, str]] = []  # what changed, and what to do
        self._may_be_allowed: list[tuple[str, str]] = []
        self._old = False

    def is_old(self) -> None:
        """The checkpoint is of an earlier version, which wrote fewer facts: those that it lacks cannot be compared."""
        self._old = True

    def of_facts(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Compare the facts, by dotted name."""
        changed = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
        settings = []
        for name in changed:
            line = f"{name}: {_brief(name, then.get(name))} then, {_brief(name, now.get(name))} now"
            if name == "run":
                away = f"delete {self.checkpoint}, or move it away"
                self._refused.append((f"{line} (another run wrote it)", f"{away}: then an older one is taken"))
            elif name.startswith("versions."):
                package = name.removeprefix("versions.")
                back = f"`pip install {package}=={then.get(name)}`" if then.get(name) else "the earlier versions"
                self._may_be_allowed.append((line, back))
            elif name.startswith("data.") and name != "data.other_image":  # which is what the loss looks at
                key = "data.train (or its split, format and held-out share)" if name == "data.train" else "data.eval"
                self._may_be_allowed.append((line, f"put the earlier files back where {key} names them"))
            elif name == "model.id" or name.startswith(tuple(_START)):
                what = next((words for key, words in _START.items() if name.startswith(key)), "model")
                self._refused.append((line, f"put the earlier {what} back, or name its folder"))
            else:
                settings.append(line)
        if settings:
            # the folder is named: it may have been moved since its recipe was written
            again = ["mmpref", "train", str(self.run.recipe_file), f"output={self.run.path}", "--resume"]
            remedy = f"`{shlex.join(again)}` goes on with the earlier settings"
            self._refused.append(("; ".join(settings), remedy))

    def of_images(self, then: RunImages, now: RunImages, stopped_at: str) -> None:
        """Compare the images file by file. Those of pairs that came or went are a matter of the pairs.

        Args:
            stopped_at: why the run ended: an image that it stopped at may be put right.
        """
        changes = now.changed_since(then)
        mentioned = re.findall(r"(?:image|video) '([^']+)'", stopped_at)
        repaired = [name for name in changes.other if any(_is(path, name) for path in mentioned)]
        if repaired:
            self.notes.append(
                f"{_some(repaired)}: the run had stopped there, and the file is another now; it is read as it is"
            )
        other = [name for name in changes.other if name not in repaired]
        if other:
            name = other[0]
            what = (
                f"data.images: {_some(other)} of {len(now.files)} {'is' if len(other) == 1 else 'are'} not the "
                f"earlier file ({name}: {_bytes(then, name)} then, {_bytes(now, name)} now)"
            )
            self._may_be_allowed.append((what, "put the earlier images back, or set data.root to where they are"))
        if changes.touched:
            name = changes.touched[0]
            what = (
                f"data.images: {_some(changes.touched)} of {len(now.files)}: same size and another time of change "
                f"({name}: {then.files[name].mtime_ns} ns then, {now.files[name].mtime_ns} ns now), so whether the "
                "bytes are the same is not known"
            )
            remedy = (
                "copy them so that times are kept (`cp -a`, `rsync -a`, `tar`); a run that began with data.manifest "
                "(`mmpref data check`) compares bytes instead of times"
            )
            self._may_be_allowed.append((what, remedy))

    def described(self) -> str:
        """What changed, without the remedies."""
        old = [f"{self._says_less()} cannot be compared"] if self._old else []
        return "; ".join([*old, *(what for what, _ in [*self._refused, *self._may_be_allowed])])

    def refuse_unless(self, allow_data_change: bool) -> None:
        """Raise where there is something that was not allowed.

        Raises:
            CheckpointError: names all of it.
        """
        if not self._refused and (allow_data_change or not (self._may_be_allowed or self._old)):
            return
        allowed = [] if allow_data_change else self._may_be_allowed
        parts = [f"{what} -> {remedy}" for what, remedy in [*self._refused, *allowed]]
        if self._old and not allow_data_change:
            parts.append(f"{self._says_less()} cannot be compared -> if they are unchanged, --allow-data-change")
        hint = ""
        if not self._refused:
            hint = "; --allow-data-change goes on all the same (with files and pairs as they are now)"
        raise CheckpointError(f"{self.checkpoint} belongs to another run: {'; '.join(parts)}{hint}")

    def _says_less(self) -> str:
        return (
            f"{self.checkpoint / COMPLETE} is of an earlier version of mmpref, which noted no hash of the whole model, "
            "processor and images: these"
        )


def _brief(name: str, value: Any) -> str:
    """A value as the message shows it; a hash by its first characters."""
    if value is None:
        return "none" if ".files" in name or name in ("run", "model.id") else "None"
    if ".files" in name or name == "run":
        return f"{str(value)[:12]}"
    if name in ("data.train", "data.eval") and isinstance(value, list | tuple):
        return f"[{', '.join(str(entry)[:12] for entry in value)}]"
    return repr(value)


def _is(path: str, name: str) -> bool:
    """Whether a message's path is this image; with several roots a name begins with the number of its root."""
    return path == name or path.endswith(f"/{name.partition(':')[2] or name}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _bytes(images: RunImages, name: str) -> str:
    known = images.files[name]
    return f"{known.num_bytes} bytes" + (f" with sha256 {known.sha256[:12]}" if known.sha256 else "")
