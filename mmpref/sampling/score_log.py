"""The scores of one scorer on disk: appended as they come, and taken up after a kill.

The first line says which scorer they are of and what they depend on; scores made with anything else are refused. Every
other line is one score, under the hash of what the model was shown and of the answer: a score never goes to another
text, whatever happened to the files meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmpref.errors import ConfigError
from mmpref.files.reading import open_to_read, parse_json
from mmpref.files.writing import json_text, open_to_append, writing_to
from mmpref.generation.answer_log import repair_last_line
from mmpref.records import Candidates, ImageRef, PromptKey, VideoRef
from mmpref.sampling.scorers.contract import RawScore

_BRIEF = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedScore:
    """A score as its line has it."""

    raw: float | None
    why: str
    detail: Mapping[str, Any]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class ScoreLog:
    """The file with the scores of the scorer of this name in the folder of a step."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        """Where it is."""
        return self.folder / f"scores.{self.name}.jsonl"

    def prepare(self, header: Mapping[str, Any]) -> dict[str, LoggedScore]:
        """The scores that are there, by the hash of their answer; a new file gets its first line.

        Args:
            header: what the scores depend on, as JSON.

        Raises:
            ConfigError: the scores there depend on something else, or the file is damaged.
            CheckpointError: it cannot be written.
        """
        with writing_to(self.file):
            if self.file.is_file():
                repair_last_line(self.file)
            if not self.file.is_file() or not self.file.stat().st_size:
                with open_to_append(self.file) as stream:
                    stream.write(json_text(dict(header)) + "\n")
                return {}
        lines = self._lines()
        self._refuse_other(next(lines, {}), json.loads(json_text(dict(header))))
        found: dict[str, LoggedScore] = {}
        for number, row in enumerate(lines, 2):
            key, score = self._score(row, number)
            found.setdefault(key, score)
        return found

    @contextlib.contextmanager
    def appending(self) -> Iterator[IO[str]]:
        """The file, open at its end; :func:`append` writes into it."""
        with open_to_append(self.file) as stream:
            yield stream

    def _lines(self) -> Iterator[Mapping[str, Any]]:
        with open_to_read(self.file, ConfigError, "scores") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as err:
                    raise self._damaged(number) from err
                row = parse_json(text, ConfigError, f"{self.file}, line {number}")
                if not isinstance(row, Mapping):
                    raise self._damaged(number)
                yield row

    def _score(self, row: Mapping[str, Any], number: int) -> tuple[str, LoggedScore]:
        key, raw, detail = row.get("answer"), row.get("raw"), row.get("detail", {})
        is_number = raw is None or (isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw))
        if not isinstance(key, str) or not is_number or not isinstance(detail, Mapping):
            raise self._damaged(number)
        value = None if raw is None else float(raw)
        return key, LoggedScore(raw=value, why=str(row.get("why", "")), detail=detail, failed=row.get("failed") is True)

    def _damaged(self, number: int) -> ConfigError:
        return ConfigError(
            f"{self.file}, line {number}, is damaged: it is no score; choose another --out, or delete it"
        )

    def _refuse_other(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if not changed:
            return
        said = []
        for name in changed:
            then, here = before.get(name), now.get(name)
            if isinstance(then, Mapping) and isinstance(here, Mapping):
                inner = [key for key in {**then, **here} if then.get(key) != here.get(key)]
                said += [f"{key} ({_brief(then.get(key))} then, {_brief(here.get(key))} now)" for key in inner]
            else:
                said.append(f"{name} ({_brief(then)} then, {_brief(here)} now)")
        raise ConfigError(
            f"{self.file} has scores of another scorer than this '{self.name}': {', '.join(said)}; choose another "
            "--out, give the scorer another name, or delete the file"
        )


def append(stream: IO[str], key: str, score: RawScore) -> None:
    """Write one score, so that it is there whatever happens to this process."""
    row: dict[str, Any] = {"answer": key, "id": score.place.prompt_id, "raw": score.value}
    row |= {"why": score.why} if score.why else {}
    row |= {"failed": True} if score.failed else {}
    row |= {"detail": dict(score.detail)} if score.detail else {}
    stream.write(json_text(row) + "\n")
    stream.flush()


def prompt_hash(shown: PromptKey) -> str:
    """A hash of what a model is shown: images and videos by path or, embedded, by their bytes."""
    turns = [[message.role, [[part.kind, part.text] for part in message.parts]] for message in shown.prompt]
    content = [[_image(image) for image in shown.images], [_video(video) for video in shown.videos], turns]
    return _hash([*content, shown.response_prefix, shown.template_kwargs])


def answer_keys(item: Candidates, *, compares: bool) -> list[str]:
    """The hash under which the score of each answer of a prompt is kept.

    Args:
        compares: whether a score also depends on the other answers of the prompt, and on how often each was given.
    """
    of_prompt = prompt_hash(item.prompt.key)
    beside = sorted([answer.text, answer.times] for answer in item.answers) if compares else None
    return [_hash([of_prompt, answer.text, beside]) for answer in item.answers]


def _hash(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()[:40]  # half an emoji is written as \ud83d


def _image(image: ImageRef) -> list[str | None]:
    return [image.path, None if image.data is None else hashlib.sha256(image.data).hexdigest()]


def _video(video: VideoRef) -> list[Any]:
    return [video.path, [_image(frame) for frame in video.frames], video.fps]


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 3]}..."
