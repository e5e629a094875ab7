"""Replies of judges by content, one JSON object per line: what was paid for once is not asked again.

The key is the judge's name, the version of the prompt and everything that the judge is shown. Where the judge was is no
part of it, since the same model may move to another address; the line says it, so that replies of another server are
taken and named. Lines of before that are read too, and count as of an unknown one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.files.writing import json_text
from mmpref.generation.answer_log import repair_last_line
from mmpref.judging.contract import JudgeTask, Value

UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A usable reply. ``server`` is the address that it is from, "" where that is not known."""

    value: Value
    reason: str
    judge: str
    server: str = UNKNOWN


def cache_line(key: str, task: JudgeTask, reply: Reply) -> str:
    """The reply to a case as its line in the cache."""
    row: dict[str, Any] = {
        "key": key,
        "task": task.name,
        task.field: reply.value,
        "reason": reply.reason,
        "judge": reply.judge,
        "server": reply.server,
    }
    return json_text(row) + "\n"


def read_cache(path: Path, tasks: Iterable[JudgeTask]) -> dict[str, Reply]:
    """Usable lines of the cache by key; others (a line cut by a kill, another version's) are asked again."""
    if not path.is_file():
        return {}
    repair_last_line(path)
    by_name = {task.name: task for task in tasks}
    found: dict[str, Reply] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
            task = by_name[row["task"]]
            value = task.read(row[task.field])
            found[str(row["key"])] = Reply(
                value, str(row["reason"]), str(row["judge"]), str(row.get("server", UNKNOWN))
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def refuse_other_file(path: Path) -> None:
    """Refuse to append replies to a file that is no cache.

    Raises:
        ConfigError: its first line is none of a cache.
    """
    if not path.is_file():
        return
    with path.open("rb") as stream:
        line = stream.readline()
    try:
        is_one = not line or {"key", "task"} <= json.loads(line).keys()
    except (ValueError, AttributeError, RecursionError):
        is_one = False
    if not is_one:
        raise ConfigError(f"{path} is no cache of a judge's replies, and nothing is written into it; name another file")
