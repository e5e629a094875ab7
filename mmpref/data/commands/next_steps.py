"""What to do about bad rows, as commands that can be pasted into a shell: quoted, with the paths that were given."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpref.data.accepted import Demonstrations, check_option
from mmpref.data.pair_source import PairSource
from mmpref.data.quarantine import Quarantine, QuarantinedRow
from mmpref.data.reading.source import local_path
from mmpref.data.verification import describes
from mmpref.errors import MMPrefError
from mmpref.yaml_text import parse_value

if TYPE_CHECKING:
    from mmpref.data.commands.check_report import CheckReport

RECIPE = "RECIPE"
"""What a command has in place of the recipe, which only the user knows."""
DEFAULT_OUT = Path("data_check")
"""Where ``mmpref data check`` writes when it is not said."""
_HOST = re.compile(r"image 'https://([A-Za-z0-9.-]+)[:/]")


def override(key: str, value: Any) -> str:
    """``key=value`` as a shell takes it, so that the recipe reads this very value from it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        try:
            same = parse_value(value, where=key) == value
        except Exception:  # whatever YAML makes of a path, it is no path then
            same = False
        text = value if same else json.dumps(value, ensure_ascii=False)
    return shlex.quote(f"{key}={text}")


def check_command(
    sources: Sequence[PairSource], *, demonstrations: Demonstrations, more: Sequence[str] = ()
) -> str | None:
    """``mmpref data check`` over these sources; None where they are not all read in one way, as one call does.

    Args:
        sources: as training or a check has them.
        demonstrations: which rows without ``rejected`` are accepted.
        more: further arguments, not quoted yet.
    """
    read_as = [_options(source) for source in sources]
    if not sources or any(options != read_as[0] for options in read_as):
        return None
    words = ["mmpref", "data", "check", *(_shell_path(source.rows.spec) for source in sources), *read_as[0]]
    return shlex.join([*words, *check_option(demonstrations), *more])


def fetch_commands(sources: Sequence[PairSource], rows: Iterable[QuarantinedRow]) -> list[str]:
    """``mmpref data fetch`` for sources whose images are URLs; [] where none is."""
    urls = (_HOST.search(row.detail) for row in rows if row.reason == "image_url")
    hosts = sorted({found[1].lower() for found in urls if found})
    if not hosts:
        return []
    commands = []
    for source in sources:
        options = [word for option in hosts[:8] for word in ("--host", option)]
        spec = _shell_path(source.rows.spec)
        out = _beside(source, "fetched")
        words = ["mmpref", "data", "fetch", spec, *_options(source, root=False), "--out", str(out)]
        commands.append(shlex.join([*words, "--image-root", str(out.parent / "images"), *options]))
    return commands


def train_command(
    sources: Sequence[PairSource], manifest: Path | None = None, *, demonstrations: Demonstrations = False
) -> str:
    """``mmpref train RECIPE`` over these sources, compared with a check where there is one."""
    keys = [*source_keys(sources), *([override("data.manifest", str(manifest))] if manifest is not None else [])]
    return " ".join(["mmpref train", RECIPE, *keys, *_loss_key(demonstrations)])


def _loss_key(demonstrations: Demonstrations) -> list[str]:
    """Labelled answers train with one loss alone, which no shipped recipe has."""
    return [override("loss.name", "kto")] if demonstrations == "labelled" else []


def source_keys(sources: Sequence[PairSource]) -> list[str]:
    """The keys of a recipe's ``data`` section that read what a check of these sources read."""
    roots = {source.asked_root for source in sources}
    root = next(iter(roots)) if len(roots) == 1 else None
    folders = {source.rows.folder for source in sources}
    entries: list[Any] = []
    for source in sources:
        said: dict[str, Any] = {"path": source.rows.spec}
        if source.format != "auto":
            said["format"] = source.format
        if source.rows.split is not None:
            said["split"] = source.rows.split
        if source.card is not None:
            said["card"] = source.card
        if root is None and len(folders) > 1 and source.images is not None and source.images.root is not None:
            said["root"] = str(source.images.root)
        entries.append(source.rows.spec if len(said) == 1 else said)
    train = entries[0] if len(entries) == 1 and isinstance(entries[0], str) else entries
    if root is None and len(folders) == 1:
        root = next(iter(folders))  # said even where it is the default, as the recipe may have another
    return [override("data.train", train), *([override("data.root", str(root))] if root is not None else [])]


def train_on_file(path: Path, root: Path | None, *, demonstrations: Demonstrations = False) -> str:
    """``mmpref train RECIPE`` over one file of pairs; ``root`` is where its image paths start, None its folder."""
    root_key = override("data.root", str(path.parent if root is None else root))
    return " ".join(["mmpref train", RECIPE, override("data.train", str(path)), root_key, *_loss_key(demonstrations)])


def after_check(
    sources: Sequence[PairSource], report: CheckReport, out: Path, *, demonstrations: Demonstrations
) -> list[str]:
    """What to do after a check, as lines: commands are lines of their own, indented."""
    steps: list[str] = []
    if report.used:
        good = f"train on the {report.used:,} rows that are in order" if report.quarantined else "train"
        steps += [f"next: {good} ({RECIPE} is a file or a name of `mmpref recipes`)"]
        steps += [f"  {train_command(sources, out, demonstrations=demonstrations)}"]
    if report.used and report.quarantined:
        fix = ["--fix", str(fix_name(sources))]
        clean = check_command(sources, demonstrations=demonstrations, more=_with_out(out, fix))
        steps += ["or write them to a file of their own, which any command takes", f"  {clean}"]
    if commands := fetch_commands(sources, report.quarantined_rows):
        steps += ["images that are URLs are downloaded once", *(f"  {line}" for line in commands)]
    if report.quarantined and not report.images and report.reasons.get("image_missing"):
        roots = sorted({str(source.images.root) for source in sources if source.images is not None})
        steps += [
            f"no image was found below {', '.join(roots)}: give the folder that the paths start from, --image-root DIR"
        ]
    if report.reasons.get("duplicate_id"):
        steps += _new_ids(sources)
    if report.reasons.get("single_answer") or report.reasons.get("undesirable"):
        command = check_command(sources, demonstrations="labelled", more=_with_out(out, []))
        steps += ["answers with a label train with loss.name=kto, for which they are checked with", f"  {command}"]
    if report.quarantined:
        again = check_command(sources, demonstrations=demonstrations, more=_with_out(out, []))
        steps += [f"{'or ' if steps else 'next: '}put the rows right and check again", f"  {again}"]
    return steps


def _with_out(out: Path, more: Sequence[str]) -> list[str]:
    return [*([] if out == DEFAULT_OUT else ["--out", str(out)]), *more]


def fix_name(sources: Sequence[PairSource]) -> Path:
    """The clean file that ``--fix`` is offered with: beside the rows, where image paths resolve as they do there, and
    not there yet."""
    return _free(_beside(sources[0], "clean"))


def report_folder(sources: Sequence[PairSource]) -> Path:
    """The folder that a check of these sources is offered with: the usual one, unless it is about other files."""
    if not DEFAULT_OUT.exists() or _is_about(DEFAULT_OUT, sources):
        return DEFAULT_OUT
    other = DEFAULT_OUT.with_name(f"{DEFAULT_OUT.name}_{_stem(sources[0])}")
    return other if _is_about(other, sources) else _free(other)


def _is_about(folder: Path, sources: Sequence[PairSource]) -> bool:
    try:
        return describes(folder, sources)
    except MMPrefError:  # there is no report in it, or none that can be read
        return False


def _free(path: Path) -> Path:
    """The path, with a number where something is there already."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return path if not os.path.lexists(path) else next(each for each in numbered if not os.path.lexists(each))


def advice_on_ids(sources: Sequence[PairSource], *, demonstrations: Demonstrations) -> list[str]:
    """What helps a training run in which ids appear twice: a check quarantines the later rows, or all get new ids."""
    folder = report_folder(sources)
    command = check_command(sources, demonstrations=demonstrations, more=_with_out(folder, []))
    lines = []
    if command is not None:
        lines += [
            "to train on the first of each, run",
            f"  {command}",
            "and give this command once more with",
            f"  {override('data.manifest', str(folder))}",
        ]
    return [*lines, *_new_ids(sources)]


def _new_ids(sources: Sequence[PairSource]) -> list[str]:
    lines = ["or, where they are different pairs, give every pair an id of its own, and train on the new files"]
    for source in sources:
        out = _free(_beside(source, "new_ids"))
        words = ["mmpref", "data", "convert", _shell_path(source.rows.spec), *_options(source), "--to", "canonical"]
        lines.append(f"  {shlex.join([*words, '--new-ids', '--out', str(out)])}")
    return lines


def advice(sources: Sequence[PairSource], quarantine: Quarantine, *, demonstrations: Demonstrations) -> list[str]:
    """What helps a training run that met too many bad rows, from the shortest way to the most thorough."""
    share = allowing(quarantine.num_bad, quarantine.num_read)
    lines = []
    if quarantine.num_used:
        lines += [
            f"to train on the {quarantine.num_used:,} others, give this command once more with",
            f"  {override('data.max_bad_fraction', share)}",
        ]
        folder = report_folder(sources)
        command = check_command(sources, demonstrations=demonstrations, more=_with_out(folder, []))
        if command is not None:
            lines += [
                "or look at all of them, and tie the run to what was checked: run",
                f"  {command}",
                "and give this command once more with",
                f"  {override('data.manifest', str(folder))}",
            ]
        more = _with_out(folder, ["--fix", str(fix_name(sources))])
        clean = check_command(sources, demonstrations=demonstrations, more=more)
        if clean is not None:
            lines += ["or write the good rows to a file of their own: run", f"  {clean}"]
    if commands := fetch_commands(sources, quarantine.rows):
        lines += ["images that are URLs are downloaded once, before training: run", *(f"  {line}" for line in commands)]
    return lines


def allowing(bad: int, read: int) -> float:
    """The smallest share, in thousandths, that allows so many bad rows."""
    return -(-1000 * bad // read) / 1000


def _options(source: PairSource, *, root: bool = True) -> list[str]:
    return [
        *(["--format", source.format] if source.format != "auto" else []),
        *(["--image-root", str(source.asked_root)] if root and source.asked_root is not None else []),
        *(["--split", source.rows.split] if source.rows.split is not None else []),
        *(["--card", source.card] if source.card is not None else []),
    ]


def _beside(source: PairSource, name: str) -> Path:
    """A file to write: where a file of rows and its images start; never in a folder that is itself the source."""
    rows = source.rows
    if rows.folder is not None and (bool(rows.reading) or local_path(rows.spec)[0].is_file()):
        return rows.folder / f"{_stem(source)}.{name}.jsonl"
    return Path(f"{rows.name}.{name}.jsonl")


def _stem(source: PairSource) -> str:
    return source.rows.files[0].stem if len(source.rows.files) == 1 else source.rows.name


def _shell_path(spec: str) -> str:
    """A path that begins with a dash would be an option."""
    return f"./{spec}" if spec.startswith("-") else spec
