"""Answers with the readings that every reader gives them: what the number of the reading rules stands for.

    python scripts/golden_readings.py                            # compare; exit code 1 where a row is read otherwise
    python scripts/golden_readings.py --write                    # write the readings anew, after raising the number
    python scripts/golden_readings.py --fixtures                 # more answers: those of tests/fixtures/evals
    python scripts/golden_readings.py --add yes_no FILE.jsonl    # more answers: rows with question and answer
    python scripts/golden_readings.py --add captions FILE.jsonl  # rows with caption
    python scripts/golden_readings.py --add choice FILE.jsonl    # rows with question, options {letter: text} and answer

Where a stored answer is read otherwise, ``--write`` wants ``READING_REVISION`` in ``mmpref/evals/text/revision.py``
raised first: results of the old number and of the new one are then never put into one column.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.evals import score
from mmpref.evals.text.choice import read_choice
from mmpref.evals.text.options import split_options
from mmpref.evals.text.revision import READING_REVISION
from mmpref.evals.text.yes_no import read_lmms_eval, read_mmpref, read_official, read_vlmevalkit
from mmpref.files.writing import write_text

FILE = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "evals" / "readings.jsonl"
Row = dict[str, Any]

_YES_NO: Mapping[str, Callable[[str, str], str]] = {
    "mmpref": read_mmpref,
    "official": read_official,
    "lmms_eval": read_lmms_eval,
    "vlmevalkit": read_vlmevalkit,
}
_TRUTH = "dog"  # the truth of the captions; the words that are looked for are all of COCO's


def readings(rows: Sequence[Row]) -> list[Any]:
    """What the readers make of rows today: yes, no or unparsed by protocol; a letter; the objects of a caption."""
    captions = [row["caption"] for row in rows if row["kind"] == "captions"]
    objects = iter(_objects(captions))
    return [next(objects) if row["kind"] == "captions" else _read(row) for row in rows]


def _read(row: Row) -> Any:
    if row["kind"] == "choice":
        return read_choice(row["answer"], row["options"], row["question"])
    return {protocol: read(row["answer"], row["question"]) for protocol, read in _YES_NO.items()}


def _objects(captions: Sequence[str]) -> list[list[str]]:
    """By the route that every result takes."""
    if not captions:
        return []
    names = [str(number) for number in range(len(captions))]
    answers = [{"id": name, "text": caption} for name, caption in zip(names, captions, strict=True)]
    result = score("chair", {name: [_TRUTH] for name in names}, answers, synonyms="coco")
    by_id = {str(item["id"]): item for item in result.items}
    return [sorted({mention["object"] for mention in by_id[name]["mentions"]}) for name in names]


def load(file: Path = FILE) -> tuple[int, list[Row]]:
    """The stored revision and rows; none where there is no file yet."""
    if not file.exists():
        return 0, []
    head, *rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return int(head["revision"]), rows


def changed(rows: Sequence[Row]) -> list[tuple[Row, Any]]:
    """The rows that are read otherwise than stored, with what is read now."""
    return [(row, now) for row, now in zip(rows, readings(rows), strict=True) if row["reading"] != now]


def write(rows: Iterable[Row], file: Path = FILE) -> None:
    """Write rows with the readings of today under the number of today."""
    kept = list(rows)
    lines = [{"revision": READING_REVISION}]
    lines += [{**row, "reading": now} for row, now in zip(kept, readings(kept), strict=True)]
    write_text(file, "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines))


def renew(added: Sequence[Row] = (), file: Path = FILE) -> int:
    """Write the file anew with more rows; returns how many are new.

    Raises:
        ConfigError: a stored answer is read otherwise under a number that is not higher than the stored one.
    """
    revision, rows = load(file)
    if (other := changed(rows)) and revision >= READING_REVISION:
        raise ConfigError(
            f"{len(other)} stored answers are read otherwise, and READING_REVISION is still {READING_REVISION}: "
            f"set it to {revision + 1} in mmpref/evals/text/revision.py\n{shown(other)}"
        )
    known = {_key(row) for row in rows}
    new = list({_key(row): row for row in added if _key(row) not in known}.values())
    write([*rows, *new], file)
    return len(new)


def shown(other: Sequence[tuple[Row, Any]]) -> str:
    """The first rows that are read otherwise, for people."""
    lines = [f"{json.dumps(row, ensure_ascii=False)}\n    now {json.dumps(now)}" for row, now in other[:10]]
    return "\n".join([*lines, *(["..."] if len(other) > 10 else [])])


def _key(row: Row) -> str:
    return json.dumps({name: row[name] for name in sorted(row) if name != "reading"}, ensure_ascii=False)


def rows_of(kind: str, file: Path) -> list[Row]:
    """Rows of a JSON lines file without whatever else stands in them."""
    wanted = {"yes_no": ("question", "answer"), "captions": ("caption",), "choice": ("question", "options", "answer")}[
        kind
    ]
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [{"kind": kind, **{name: row[name] for name in wanted}} for row in rows]


def rows_of_fixtures(folder: Path = FILE.parent) -> list[Row]:
    """The answers to yes-or-no and multiple-choice questions and the captions that tests have anyway."""
    rows: list[Row] = []
    for name, key, words in (("pope", "question_id", "text"), ("dash_b", "question_id", "question")):
        stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        asked = {str(row[key]): row[words] for row in stored["questions"]}
        rows += [_yes_no(asked[str(row["id"])], row["text"]) for row in stored["answers"]]
    stored = json.loads((folder / "mme.json").read_text(encoding="utf-8"))
    rows += [_yes_no(q["question"], row["text"]) for q, row in zip(stored["questions"], stored["answers"], strict=True)]
    stored = json.loads((folder / "crpe.json").read_text(encoding="utf-8"))
    texts = {str(row["question_id"]): row["text"] for row in stored["questions"]}
    for row in stored["answers"]:
        asked_of = split_options(texts[str(row["id"])])
        rows.append({"kind": "choice", "question": asked_of.stem, "options": asked_of.options, "answer": row["text"]})
    for file in sorted(set(folder.glob("*.jsonl")) - {FILE}):
        first = json.loads(file.read_text(encoding="utf-8").split("\n", 1)[0])
        if kind := "captions" if "caption" in first else "yes_no" if {"question", "answer"} <= first.keys() else "":
            rows += rows_of(kind, file)
    return rows


def _yes_no(question: str, answer: str) -> Row:
    return {"kind": "yes_no", "question": question, "answer": answer}


def main() -> int:
    """Compare, write anew, or add."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--fixtures", action="store_true")
    parser.add_argument("--add", nargs=2, action="append", default=[], metavar=("KIND", "FILE"))
    given = parser.parse_args()
    if given.write or given.add or given.fixtures:
        added = [row for kind, file in given.add for row in rows_of(kind, Path(file))]
        try:
            new = renew([*added, *(rows_of_fixtures() if given.fixtures else [])])
        except ConfigError as err:
            print(err, file=sys.stderr)
            return err.exit_code
        print(f"wrote {FILE}: revision {READING_REVISION}, {new} new rows")
        return 0
    revision, rows = load()
    other = changed(rows)
    print(f"{len(rows)} answers, revision {revision} (now {READING_REVISION}), {len(other)} read otherwise")
    print(shown(other))
    return 1 if other or revision != READING_REVISION else 0


if __name__ == "__main__":
    sys.exit(main())
