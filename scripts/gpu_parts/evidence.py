"""Committed results, and of each part the newest that has figures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_parts.case import Row
from gpu_parts.results import read_results

HAS = {"plan": "error"}
"""What a row must have for its part to count as measured: fitted constants alone do not compare a plan with a peak."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One part as one results file has it."""

    facts: Mapping[str, Any]
    """The file without its parts: date, commit, environment."""
    file: str
    part: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """Rows with figures."""
        return [row for row in self.part["rows"] if not {"skipped", "failed"} & row.keys()]

    @property
    def without(self) -> list[tuple[str, str]]:
        """(case, why) of what has no figures."""
        return [
            (row["case"], f"{word}: {row[word]}")
            for row in self.part["rows"] for word in ("skipped", "failed") if word in row
        ]  # fmt: skip

    @property
    def card(self) -> str:
        return str(self.facts["environment"]["card"]).removeprefix("NVIDIA ")

    @property
    def source(self) -> str:
        """Card, driver, versions, commit and date, in one sentence."""
        environment = self.facts["environment"]
        driver = f" (driver {environment['driver']})" if environment.get("driver") else ""
        libraries = ", ".join(
            f"{name} {version}" for name, version in environment["libraries"].items()
            if version and name in ("torch", "transformers", "peft", "bitsandbytes", "trl", "flash_attn")
        )  # fmt: skip
        code = "commit not recorded"
        if self.facts["commit"]:
            code = f"commit {self.facts['commit'][:10]}" + ", with changes" * bool(self.facts["changed_since_commit"])
        elif self.facts["source"]:
            code = f"code {self.facts['source'][:10]}"
        note = f" {self.facts['note']}" if self.facts.get("note") else ""
        day = datetime.date.fromisoformat(self.facts["date"])
        return f"{environment['card']}{driver}, {libraries}; {code}; {day.day} {day:%B %Y}.{note}"


Evidence = Mapping[str, Measured]
"""Part -> the newest results that have figures of it. A part that was never measured is not in it."""


def newest_of_each_part(folder: Path) -> dict[str, Measured]:
    """What the files of a folder know of each part.

    Raises:
        ValueError: a file that is no results file, or one of a dry run, whose figures mean nothing; names it.
    """
    found: dict[str, Measured] = {}
    files = sorted((read_results(path)["started"], path) for path in folder.glob("*.json"))
    for _, path in files:
        results = read_results(path)
        if results["dry_run"]:
            raise ValueError(f"{path} is of a dry run: its figures mean nothing and do not belong here")
        facts = {name: value for name, value in results.items() if name != "parts"}
        for name, part in results["parts"].items():
            measured = Measured(facts=facts, file=path.name, part=part)
            if any(HAS.get(name, "case") in row for row in measured.rows):
                found[name] = measured
    return found
