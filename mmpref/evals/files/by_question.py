"""The questions that rows without an id of the benchmark answer, found by what they show of what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmpref.errors import DataError
from mmpref.evals.files.image_names import IMAGE_KEYS, image_names, image_of
from mmpref.evals.files.question_words import ASKED, asked_text, content
from mmpref.files.rows import Row, as_id
from mmpref.records import Answer, EvalSample


class ByQuestion:
    """The samples by what they ask, for rows without an id of theirs."""

    def __init__(self, samples: Sequence[EvalSample]) -> None:
        self._samples = samples
        self._waiting: dict[str, dict[str, list[str]]] | None = None  # image -> question -> ids
        self._numbered: dict[str, list[EvalSample]] | None = None
        self._used = False

    def take(self, row: Row, where: str) -> list[str]:
        """The first sample with this row's image and question that no row has taken yet.

        Raises:
            DataError: there is none.
        """
        if found := self.find(row) or self._by_number(row, asked_text(row)):
            return found
        keys = ("question", "input", "prompt", "query", *IMAGE_KEYS, "question_id", "index", "doc_id")
        shown = {key: _short(row[key]) for key in keys if row.get(key)}
        raise DataError(
            f"{where}: fits no question that was asked: {shown}; a row needs the benchmark's own id, or the question's "
            "text and the image's name"
        )

    def find(self, row: Row) -> list[str]:
        """The same, and nothing when there is none. An id may be the image's name, as LLaVA's of MME is."""
        question = asked_text(row)
        if not question:
            return []
        for image in image_of(row, keys=(*IMAGE_KEYS, "question_id")).values():
            for name in image_names(image, str(row.get("category", ""))):
                if names := self._names(name, question):
                    self._used = True
                    return [names.pop(0)] if len(names) > 1 else [names[0]]
        return []

    def _by_number(self, row: Row, question: str) -> list[str]:
        """For a log of several splits that does not name them: the first free sample of this number and question.

        The splits of POPE ask about the same image under one number, so that it does not matter which of them is taken.
        """
        number = row.get("question_id")
        if not question or not isinstance(number, str | int):
            return []
        if self._numbered is None:
            self._numbered = {}
            for sample in self._samples:
                self._numbered.setdefault(sample.id.rsplit("/", 1)[-1], []).append(sample)
        free = self._numbered.get(str(number), [])
        fitting = [s for s in free if (own := content(s)[1]) and question.startswith(own)]
        if len({content(sample) for sample in fitting}) != 1:
            return []
        if len(fitting) > 1:
            free.remove(fitting[0])
        self._used = True
        return [fitting[0].id]

    def _names(self, image: str, question: str) -> list[str]:
        if self._waiting is None:
            self._waiting = self._by_image()
        questions = self._waiting.get(image, {})
        if question in questions:
            return questions[question]
        # a tool's suffix ("Please answer yes or no.") may follow the question
        starts = [known for known in questions if known and question.startswith(known)]
        return questions[max(starts, key=len)] if starts else []

    def _by_image(self) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        meant: dict[str, set[str]] = {}
        for sample in self._samples:
            image, question = content(sample)
            names = image_names(image)
            for name in names:
                found.setdefault(name, {}).setdefault(question, []).append(sample.id)
                meant.setdefault(name, set()).add(names[0])
        return {name: questions for name, questions in found.items() if len(meant[name]) == 1}

    def repeated(self, answers: Sequence[Answer]) -> list[Answer]:
        """The same answer for the other places where the same question about the same image is asked."""
        if not self._used:
            return []
        given = {answer.id: answer for answer in answers}
        by_content: dict[tuple[str, str], Answer] = {}
        for sample in self._samples:
            if sample.id in given:
                by_content.setdefault(content(sample), given[sample.id])
        return [
            Answer(id=sample.id, text=by_content[content(sample)].text, cut=by_content[content(sample)].cut)
            for sample in self._samples
            if sample.id not in given and content(sample) in by_content
        ]


def _short(value: object) -> object:
    return f"{value[:80]}..." if isinstance(value, str) and len(value) > 80 else value


def counts_its_own_way(row: Row) -> bool:
    """Whether a row is of a tool whose ids are not those of the benchmark."""
    if ASKED in row:
        return False
    return "doc_id" in row or ("index" in row and "prediction" in row) or ("id" not in row and "question" in row)


def confirmed(row: Row, by_id: Mapping[str, EvalSample]) -> list[str]:
    """An id of the row that a sample has, when the sample asks what the row says was asked."""
    question = asked_text(row)
    for key in ("id", "question_id", "image_id", "index"):
        sample = by_id.get(as_id(row.get(key)) or "")
        if sample is None:
            continue
        image, own = content(sample)
        shown = [name for given, name in image_of(row).items() if given != "image_id"]
        same_image = not image or all(set(image_names(name)) & set(image_names(image)) for name in shown)
        if same_image and (not question or not own or question.startswith(own)):
            return [sample.id]
    return []
