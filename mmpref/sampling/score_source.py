"""What is scored: the candidates of a step, or the answers of any pair set.

A source is read twice: once to know its answers, and once more when what was read is written with its scores. Prompts
with embedded images lie in a temporary file meanwhile, so that memory does not grow with the images.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, overload

from mmpref.data.opening import open_pairs
from mmpref.data.pair_source import PairSource, all_images
from mmpref.data.pair_writing import prompt_to_row
from mmpref.data.pairs import prompt_from_row
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import home_path, open_to_read
from mmpref.files.writing import writing_to
from mmpref.records import Candidate, Candidates, PreferencePair, Prompt
from mmpref.sampling.candidate_files import read_candidates
from mmpref.sampling.score_log import prompt_hash
from mmpref.sampling.steps import CANDIDATES, PAIRS, STEP, Step, file_of_step

IMAGE_PREFERENCE = "image_preference"
"""The reason of a pair whose two sides show different images: one question does not hold for both answers."""
_FIRST_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAs:
    """How a source is read; the fields mean what the options of ``mmpref data`` of their names mean."""

    format: str = "auto"
    image_root: Path | None = None
    split: str | None = None
    card: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreSource:
    """A source, opened.

    Args:
        spec: as it was given.
        files: the local files that are read.
        image_root: the absolute folder that image paths start from, if there is one.
        step: how the candidates or pairs were made, where a step made them.
        pair_source: the pairs; None where candidates are scored.
    """

    spec: str
    files: tuple[Path, ...]
    image_root: Path | None
    step: Step | None
    pair_source: PairSource | None

    @property
    def made_from(self) -> str:
        """How ``step.json`` calls it: a path is absolute."""
        path = home_path(self.spec)
        return str(path.absolute()) if path.exists() else self.spec

    @property
    def has_pairs(self) -> bool:
        """Whether pairs are scored, and not candidates."""
        return self.pair_source is not None

    def candidates(self) -> Iterator[Candidates]:
        """The prompts of a file of candidates."""
        return read_candidates(self.files[0])

    def pairs(self, quarantine: Quarantine) -> Iterator[PreferencePair]:
        """The pairs that can be scored; the others are quarantined."""
        assert self.pair_source is not None
        for found in self.pair_source.candidates(quarantine, demonstrations=False):
            if not found.pair.has_same_images:
                detail = "the chosen and the rejected answer are about different images; its scores would not compare"
                fault = RowError(detail, reason=IMAGE_PREFERENCE)
                self.pair_source.quarantine_row(quarantine, found.file, found.row, fault, row_id=found.pair.id)
                continue
            quarantine.num_used += 1
            yield found.pair


def open_score_source(spec: str, read: ReadAs) -> ScoreSource:
    """The folder of a step, a file of candidates, or anything that ``mmpref data`` reads.

    Raises:
        ConfigError: nothing is there.
        DataError: it cannot be read.
    """
    if read.image_root is not None and not read.image_root.expanduser().is_dir():
        raise ConfigError(f"--image-root {read.image_root} is no folder")
    path = home_path(spec)
    if path.is_dir() and ((path / STEP).is_file() or (path / CANDIDATES).is_file()):
        file, step = file_of_step(path, (CANDIDATES, PAIRS))
    elif path.is_file() and (_has_candidates(path) or path.name == PAIRS):
        file, step = file_of_step(path, ())
    else:
        file, step = None, None
    root = read.image_root if read.image_root is not None else None if step is None else step.image_root
    if file is not None and _has_candidates(file):
        root = file.parent if root is None and step is None else root
        root = None if root is None else root.absolute()
        return ScoreSource(spec=spec, files=(file,), image_root=root, step=step, pair_source=None)
    opened = open_pairs(file or spec, format=read.format, root=root, split=read.split, card=read.card)
    found = None if opened.images is None else opened.images.root
    return ScoreSource(
        spec=spec,
        files=opened.rows.files,
        image_root=None if found is None else Path(found).absolute(),
        step=step,
        pair_source=opened,
    )


def _has_candidates(file: Path) -> bool:
    """Whether the first row of a file is a prompt with candidates. An empty file of that name is one without rows."""
    if file.suffix != ".jsonl":
        return False
    with open_to_read(file, DataError) as stream:
        first = next((line for line in iter(lambda: stream.readline(_FIRST_BYTES), b"") if line.strip()), b"")
    if not first:
        return file.name == CANDIDATES
    if not first.endswith(b"\n") and len(first) >= _FIRST_BYTES:  # an embedded image, say; the keys stand after it
        return file.name == CANDIDATES
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return file.name == CANDIDATES
    return isinstance(row, dict) and isinstance(row.get("candidates"), list) and "chosen" not in row


@dataclass(slots=True)
class _Entry:
    """A prompt and its answers, and the place of each text among them."""

    prompt: Prompt | tuple[int, int]  # or where it lies in the temporary file: from which byte, how many
    answers: list[Candidate] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def add(self, answer: Candidate) -> None:
        if answer.text not in self.places:
            self.places[answer.text] = len(self.answers)
            self.answers.append(answer)


class Asked(Sequence[Candidates]):
    """The prompts of a source with their answers, one item a prompt, in the order in which they come.

    Args:
        folder: for the temporary file.
    """

    def __init__(self, folder: Path) -> None:
        self._entries: list[_Entry] = []
        self._by_hash: dict[str, int] = {}
        self._ids: set[str] = set()
        self._folder = folder
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, at: int) -> Candidates: ...
    @overload
    def __getitem__(self, at: slice) -> list[Candidates]: ...
    def __getitem__(self, at: int | slice) -> Candidates | list[Candidates]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        entry = self._entries[at]
        return Candidates(prompt=self._prompt(entry), answers=tuple(entry.answers))

    @property
    def num_answers(self) -> int:
        """Answers of all prompts."""
        return sum(len(entry.answers) for entry in self._entries)

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.close()

    def add(self, item: Candidates) -> None:
        """Add a prompt of a file of candidates."""
        self._entries.append(entry := _Entry(self._kept(item.prompt)))
        for answer in item.answers:
            entry.add(answer)

    def add_pair(self, pair: PreferencePair) -> None:
        """Add the answers of a pair to those of its prompt; each text once."""
        digest = prompt_hash(pair.prompt_key)
        if (at := self._by_hash.get(digest)) is None:
            at = self._by_hash[digest] = len(self._entries)
            self._entries.append(_Entry(self._kept(self._prompt_of(pair))))
        for text in (pair.chosen, pair.rejected or ""):
            self._entries[at].add(Candidate(text=text))

    def of_pair(self, pair: PreferencePair) -> tuple[int, int, int] | None:
        """Which item has the answers of a pair, and the places of the chosen and of the rejected one among them; None
        where there is none: the source is another one than before."""
        at = self._by_hash.get(prompt_hash(pair.prompt_key))
        places = {} if at is None else self._entries[at].places
        if at is None or pair.chosen not in places or pair.rejected not in places:
            return None
        return at, places[pair.chosen], places[pair.rejected]

    def _prompt_of(self, pair: PreferencePair) -> Prompt:
        name, number = pair.id, 1
        while name in self._ids:  # ids of pairs need not differ, and those of prompts must
            number += 1
            name = f"{pair.id}~{number}"
        self._ids.add(name)
        return Prompt(
            id=name,
            images=pair.images,
            prompt=pair.prompt,
            response_prefix=pair.response_prefix,
            source=pair.source,
            meta=pair.meta,
            template_kwargs=pair.template_kwargs,
            videos=pair.videos,
        )

    def _kept(self, prompt: Prompt) -> Prompt | tuple[int, int]:
        if all(image.data is None for image in all_images(_as_pair(prompt))):
            return prompt
        line = json.dumps(prompt_to_row(prompt)).encode("ascii")
        with writing_to(self._folder):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as this object
            start = self._file.seek(0, 2)
            self._file.write(line)
        return start, len(line)

    def _prompt(self, entry: _Entry) -> Prompt:
        if isinstance(entry.prompt, Prompt):
            return entry.prompt
        assert self._file is not None
        start, size = entry.prompt
        self._file.seek(start)
        row: dict[str, Any] = json.loads(self._file.read(size))
        return prompt_from_row(row, source="", line=1)


def _as_pair(prompt: Prompt) -> PreferencePair:
    return PreferencePair(
        id=prompt.id, images=prompt.images, prompt=prompt.prompt, chosen="", rejected=None, videos=prompt.videos
    )


class Missing(Sequence[Candidates]):
    """Of some prompts only the answers that have no score yet, for a scorer.

    Args:
        asked: all prompts.
        wanted: (item, places of its answers), for those that lack some.
    """

    def __init__(self, asked: Sequence[Candidates], wanted: Sequence[tuple[int, Sequence[int]]]) -> None:
        self._asked = asked
        self._wanted = wanted

    def __len__(self) -> int:
        return len(self._wanted)

    @overload
    def __getitem__(self, at: int) -> Candidates: ...
    @overload
    def __getitem__(self, at: slice) -> list[Candidates]: ...
    def __getitem__(self, at: int | slice) -> Candidates | list[Candidates]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        item, places = self._wanted[at]
        whole = self._asked[item]
        return replace(whole, answers=tuple(whole.answers[place] for place in places))
