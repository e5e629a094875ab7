"""What kind of file each format of answers is, and the endings of names that say another: a table called .xlsx that
holds JSON lines is one that nobody can open."""

from __future__ import annotations

from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.tables import WRITTEN

JSON_LINES, JSON_ARRAY, TABLE, FOLDER = "JSON lines", "one JSON array", "a table", "a folder of text files"
_ENDINGS = {
    JSON_LINES: (".jsonl", ".json", ".ndjson"),  # POPE's and other people's .json files are JSON lines
    JSON_ARRAY: (".json",),
    TABLE: WRITTEN,
    FOLDER: (),
}
_KNOWN = (
    ".jsonl", ".json", ".ndjson", ".tsv", ".csv", ".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".feather", ".txt",
    ".md", ".html", ".xml", ".yaml", ".yml", ".toml", ".pkl", ".pickle", ".npy", ".npz", ".pt", ".zip", ".gz", ".zst",
    ".bz2", ".xz", ".tar", ".tgz", ".db", ".sqlite", ".pdf", ".tex", ".log",
)  # fmt: skip
_OFFICIAL_LINES = ("pope", "object_halbench", "crpe", "mmvp")


def kind_of(benchmark: str, to: str) -> str:
    """What ``export --to`` writes for a benchmark."""
    if to == "vlmevalkit":
        return TABLE
    if (benchmark, to) == ("mme", "official"):
        return FOLDER
    if to == "alpaca_eval" or (to == "official" and benchmark not in _OFFICIAL_LINES):
        return JSON_ARRAY
    return JSON_LINES


def refuse_ending(path: Path, benchmark: str, to: str) -> None:
    """Raise over a name whose ending says that the file is of another kind.

    A name without an ending, or with one that is none (``llava-1.5-7b``), says nothing, except that a table has one.

    Raises:
        ConfigError: so it is.
    """
    kind, end = kind_of(benchmark, to), path.suffix.lower()
    fitting = _ENDINGS[kind]
    if end in fitting or (end not in _KNOWN and kind != TABLE):
        return
    if kind == FOLDER:
        raise ConfigError(f"{path}: {to} of {benchmark} is {kind}; give a name without {end}")
    called = f"a name that ends in {end}" if end else "a name without an ending"
    more = "; VLMEvalKit's layout is a table: --to vlmevalkit" if end in WRITTEN and kind != TABLE else ""
    fits = " or ".join(fitting)
    raise ConfigError(
        f"{path}: {to} of {benchmark} is {kind}, and this is {called}; give one that ends in {fits}{more}"
    )
