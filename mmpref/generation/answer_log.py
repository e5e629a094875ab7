"""The answers of one evaluation on disk: written as they come, taken up after a kill, rejected when they belong to
another evaluation.

``settings.json`` says what the answers depend on, ``images.json`` what was in the images, ``answers.jsonl`` has the
answers, with ``finish_reason`` where the limit of tokens ended one and ``served_as`` where a server named its model.
Under torchrun every process appends to ``answers.rank<N>.jsonl``, and the first one puts all into ``answers.jsonl``;
what a killed run left there is merged by the next.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmpref.errors import ConfigError, EvalIncompleteError
from mmpref.files.reading import read_json
from mmpref.files.rows import first_ids, load_rows, refuse_duplicates, row_id
from mmpref.files.writing import json_text, open_to_append, replacing, write_json, writing_to
from mmpref.generation.fingerprint import WHOLE
from mmpref.records import Answer, EvalSample

SETTINGS = "settings.json"
IMAGES = "images.json"
ANSWERS = "answers.jsonl"
ITEMS = "items.jsonl"  # written beside, once all is answered: what was asked, and how the answer was read
_OF_RANKS = "answers.rank*.jsonl"


@dataclass(frozen=True, slots=True)
class AnswerLog:
    """The folder of one evaluation, seen by the process ``rank``; None when there is only one."""

    folder: Path
    rank: int | None = None

    @property
    def file(self) -> Path:
        """Where this process writes."""
        return self.folder / (ANSWERS if self.rank is None else f"answers.rank{self.rank}.jsonl")

    def prepare(self, settings: Mapping[str, Any], images: Mapping[str, str], samples: Sequence[EvalSample]) -> None:
        """Check that the answers in the folder were made with these settings and images, and write both down.

        Raises:
            ConfigError: they were not, or nothing says so.
        """
        self._merge()
        done = self.read()
        settings_file = self.folder / SETTINGS
        if done:
            before = _saved(settings_file)
            settings = {**settings, **_same_served(self.folder, before, settings)}
            _refuse_other_settings(self.folder, before, settings)
            images = self._same_images(images, [sample for sample in samples if sample.id in done])
        write_json(settings_file, settings)
        write_json(self.folder / IMAGES, images)

    def refuse_changed(self, before: Mapping[str, Any], now: Mapping[str, Any] | None) -> None:
        """Refuse answers of which nobody can say any more which are of which model, now and in later runs.

        Args:
            before: what the server said of its model at the beginning.
            now: what it says at the end; None where it cannot be reached.

        Raises:
            EvalIncompleteError: the server has another model under the same name than at the beginning.
        """
        if now is None or not (changed := served_differently(before, now)):
            return
        settings = _saved(self.folder / SETTINGS)
        write_json(self.folder / SETTINGS, {**settings, "served": {**before, "changed while answering": True}})
        raise EvalIncompleteError(
            f"the server changed its model while it answered: {changed}; the answers of both are mixed in "
            f"{self.folder / ANSWERS}: delete it, or choose another folder"
        )

    def read(self) -> dict[str, Answer]:
        """The answers in the one file, by id."""
        file = self.folder / ANSWERS
        if not file.is_file():
            return {}
        answers = _answers_in(file)
        refuse_duplicates((answer.id for answer in answers), str(file))
        return {answer.id: answer for answer in answers}

    @contextlib.contextmanager
    def appending(self) -> Iterator[IO[str]]:
        """The file of this process, open at its end and locked, so that no second run writes there at the same time."""
        with open_to_append(self.file) as stream:
            _lock(stream, self.file)
            yield stream

    def finish(self) -> None:
        """Put what several processes wrote into the one file, when all have ended."""
        if self.rank is not None:
            self._merge()

    def _merge(self) -> None:
        """Put what the processes of a torchrun wrote into the one file, and repair last lines that a kill cut."""
        parts = sorted(self.folder.glob(_OF_RANKS))
        for file in (self.folder / ANSWERS, *parts):
            if file.is_file():
                with writing_to(file), open_to_append(file) as stream:
                    _lock(stream, file)  # a line that is being written is not torn
                    repair_last_line(file)
        if not parts:
            return
        merged = self.read()
        for part in parts:
            for answer in _answers_in(part) if part.stat().st_size else ():
                merged.setdefault(answer.id, answer)
        with replacing(self.folder / ANSWERS) as stream:
            for answer in merged.values():
                stream.write(as_line(answer).encode("utf-8"))
        for part in parts:
            part.unlink()

    def _same_images(self, images: Mapping[str, str], answered: Sequence[EvalSample]) -> dict[str, str]:
        """Old and new fingerprints together, the images of answered questions being what they were."""
        file = self.folder / IMAGES
        before = _saved(file) if file.is_file() else {}
        if odd := [path for path, digest in before.items() if not isinstance(digest, str)]:
            raise ConfigError(
                f"{file} is damaged: {odd[0]!r:.100} has no fingerprint; choose another folder, or delete "
                f"{self.folder / ANSWERS}"
            )
        used = {image.path for sample in answered for image in sample.images if image.path is not None}
        changed = [path for path in sorted(used) if path in before and path in images and before[path] != images[path]]
        if changed:
            raise ConfigError(
                f"{self.folder} holds answers made from other images: {len(changed)} of {len(used)} files differ "
                f"({first_ids(changed)}); choose another folder, or delete {self.folder / ANSWERS}"
            )
        return {**before, **images}


def as_line(answer: Answer) -> str:
    """The answer as its line in the file."""
    row: dict[str, Any] = {"id": answer.id, "text": answer.text}
    if answer.cut:
        row["finish_reason"] = "length"
    if answer.served_as:
        row["served_as"] = answer.served_as
    if answer.server_state:
        row["system_fingerprint"] = answer.server_state
    if answer.seed is not None:
        row["seed"] = answer.seed
    return json_text(row) + "\n"


def repair_last_line(path: Path) -> None:
    """A run killed while writing leaves half a line at the end; that answer is dropped and asked again."""
    content = path.read_bytes()
    if not content or content.endswith(b"\n"):
        return
    whole = content.rfind(b"\n") + 1
    with writing_to(path), path.open("r+b") as stream:
        try:
            json.loads(content[whole:])
        except (ValueError, RecursionError):
            stream.truncate(whole)
        else:
            stream.seek(0, 2)
            stream.write(b"\n")


def _answers_in(file: Path) -> list[Answer]:
    if not file.stat().st_size:
        return []
    rows = load_rows(file, "answers")
    return [
        Answer(
            id=row_id(row, f"{file}, row {number}"),
            text=str(row.get("text", "")),
            cut=row.get("finish_reason") == "length",
            served_as=str(row.get("served_as") or ""),
            server_state=str(row.get("system_fingerprint") or ""),
            seed=row["seed"] if isinstance(row.get("seed"), int) else None,
        )
        for number, row in enumerate(rows, 1)
    ]


def _saved(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(
            f"{file.parent} has answers but no {file.name}; choose another folder, or delete {file.parent / ANSWERS}"
        )
    content = read_json(file, ConfigError)
    if not isinstance(content, dict):
        raise ConfigError(f"{file} cannot be read (it holds no JSON object); choose another folder")
    return content


def served_differently(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two accounts of a served model differ, "" where they do not; ``created`` counts where both have it."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changed = [name for name in names if name != "created" or {name} <= before.keys() & now.keys()]
    return ", ".join(f"{name} ({_brief(before.get(name))} then, {_brief(now.get(name))} now)" for name in changed)


def _same_served(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the served model, from then and from now.

    Raises:
        ConfigError: it is another model.
    """
    then, now = before.get("served"), settings.get("served")
    if "served" not in settings:
        return {}
    if not then or not isinstance(then, Mapping) or now is None:  # not asked or not said then; not to be reached now
        return {"served": then if now is None else now}
    if changed := served_differently(then, now):
        raise ConfigError(
            f"{folder} holds answers of another served model, though its name is the same: {changed}; choose another "
            f"folder, or delete {folder / ANSWERS}"
        )
    return {"served": {**then, **now}}


def _refuse_other_settings(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    names = {**before, **settings}.keys() - {"served"}  # compared before
    changed = [name for name in {**before, **settings} if name in names and before.get(name) != settings.get(name)]
    then, now = str(before.get("model_files", "")), str(settings.get("model_files", ""))
    if changed == ["model_files"] and then and WHOLE in now and WHOLE not in then:
        raise ConfigError(
            f"{folder} holds answers of an earlier version of mmpref, which looked at parts of the model's files only: "
            f"whether they are of this model is not known; choose another folder, or delete {folder / ANSWERS}"
        )
    if changed:
        what = ", ".join(_changed(name, before.get(name), settings.get(name)) for name in changed)
        raise ConfigError(
            f"{folder} holds answers made with other settings: {what}; choose another folder, "
            f"or delete {folder / ANSWERS}"
        )


def _changed(name: str, then: object, now: object) -> str:
    """What a setting was and is; of one with parts, those that differ."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        parts = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        return f"{name} ({', '.join(_changed(key, then.get(key), now.get(key)) for key in parts)})"
    return f"{name} ({_brief(then)} then, {_brief(now)} now)"


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _lock(stream: IO[str], file: Path) -> None:
    """A lock that ends with the process, however it ends; where the file system has none, there is none."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise ConfigError(f"another process is writing {file}; wait for it, or choose another folder") from err
    except OSError:
        return
