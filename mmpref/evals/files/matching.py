"""Which question each row of an answer file answers.

By the benchmark's own key where a row has several; what else a row shows (its prompt, its image, its split) must agree.
A row of a tool that counts its own way (VLMEvalKit's ``index``, lmms-eval's ``doc_id``, LLaVA's id of MME, which two
questions share) is matched by what was asked: the text of the question and the name of the image, or an id that the
question's text confirms. Rows without any id, as LLaMA-Factory writes them, are taken in their order when every one of
them shows the question at its place. A row that fits no question is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from mmpref.errors import DataError
from mmpref.evals.files.evidence import Evidence, by_order, fits
from mmpref.evals.files.image_names import IMAGE_KEYS, ImageIndex, image_names, image_of
from mmpref.evals.files.layouts import layout_of, place_of
from mmpref.evals.files.question_words import ASKED, asked_text, content
from mmpref.evals.files.rows import Saved, answer_text, cut_by_length, text_key
from mmpref.files.rows import ID_KEYS, Row, as_id, row_id
from mmpref.records import Answer, EvalSample

IdsOf: TypeAlias = Callable[[Row], Sequence[str]]
_COUNTS = ("question_id", "idx", "index")
_NUMBERS = ("id", *_COUNTS)  # keys that often count the rows of a file


def match(
    rows: Sequence[Row],
    samples: Sequence[EvalSample],
    where: str,
    *,
    ids_of: IdsOf = lambda row: (),
    keys: Sequence[str] = ID_KEYS,
    numbered: bool = False,
    prefix: str = "",
    among: Sequence[EvalSample] = (),
) -> Saved:
    """Each row as the answer to its question; a row without a known id keeps the one it has, for others to refuse.

    Args:
        ids_of: the ids that a row's own fields make, best first.
        keys: where an id may stand, the benchmark's own key first.
        numbered: the questions have no id in their file, so that ids which are all numbers from 0 on, or exactly those
            from 1 to the last, are understood as their order there.
        among: all questions of the benchmark, when these are a part.
        prefix: may stand before an id of the samples and be left out in the rows.

    Raises:
        DataError: a row has no usable text, or neither an id nor a question that was asked; two ids of a row name
            different questions; or rows show other questions than those of their ids.
    """
    by_id = {sample.id: sample for sample in samples}
    layout = layout_of(rows)
    if numbered and not any(map(ids_of, rows)):  # a number beside the fields of an id is one of these
        rows = _numbers_to_ids(rows, samples, keys[0])
    ids = _Ids(rows, samples, keys, where, prefix)
    if not ids.used and not any(map(image_of, rows)) and (found := by_order(rows, samples)) is not None:
        how, ordered = found
        return Saved(
            [_answer(sample.id, row, place_of(row, where, n), sample)
             for n, (sample, row) in enumerate(zip(ordered, rows, strict=True), 1)],
            read_as=_told(layout, rows, {how}),
            notes=(f"rows without ids were taken in their order, {how.partition('(')[2].rstrip(')')}",),
        )  # fmt: skip
    asked = _Asked(samples)
    evidence = Evidence(where, among or samples)
    answers: list[Answer] = []
    ways: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        place = place_of(row, where, number)
        names = [name for name in ids_of(row) if name in by_id]
        way = "the ids that its fields make"
        if not names and _counts_its_own_way(row) and not ids.names_image(row):
            names, way = _confirmed(row, by_id), "ids that the question confirms"
            if not names:
                names, way = asked.take(row, place), "question and image"
        if not names:
            if ids.has(row):
                key, name = ids.of(row, place)
                names, way = [name], key
                if name not in by_id and (taken := asked.find(row)):
                    names, way = taken, "question and image"
            else:
                names, way = _without_id(row, rows, samples, asked, place), "question and image"
        evidence.see(number, row, by_id.get(names[0]))
        ways.setdefault(way)
        answers += [_answer(name, row, place, by_id.get(name)) for name in names]
    notes = evidence.refuse_others()
    return Saved(answers + asked.repeated(answers), read_as=_told(layout, rows, ways), notes=notes)


def _told(layout: str, rows: Sequence[Row], ways: Mapping[str, None] | set[str]) -> str:
    """How the rows were read, for people."""
    keys = dict.fromkeys(key for row in rows if (key := text_key(row)) is not None)
    text = f", text under {' or '.join(repr(key) for key in keys)}" if keys else ""
    return f"{layout}{text}, matched by {' or '.join(ways)}" if rows else layout


def _answer(name: str, row: Row, place: str, sample: EvalSample | None) -> Answer:
    asked = content(sample)[1] if sample is not None else ""
    return Answer(id=name, text=answer_text(row, place, asked=asked or asked_text(row)), cut=cut_by_length(row))


def _without_id(row: Row, rows: Sequence[Row], samples: Sequence[EvalSample], asked: _Asked, place: str) -> list[str]:
    """The ids that a row without one answers by what it was asked.

    Raises:
        DataError: it shows no image, and its place in the file is another question's.
    """
    if image_of(row) or not asked_text(row):
        return asked.take(row, place) if asked_text(row) else [row_id(row, place)]
    if len(rows) != len(samples):
        why = f"there are {len(rows)} rows and {len(samples)} questions"
    else:
        odd = next((n for n, pair in enumerate(zip(rows, samples, strict=True), 1) if not fits(*pair)), 1)
        want = content(samples[odd - 1])[1] or samples[odd - 1].prompt[-1].text
        why = f"row {odd} shows {asked_text(rows[odd - 1])[:160]!r} where {want[:80]!r} is asked, or another label"
    raise DataError(
        f"{place}: rows without id and image are taken in the order of the questions when each shows its question, and "
        f"{why}; add the benchmark's ids to the rows, or put them in the order of the questions"
    )


class _Ids:
    """The ids of rows that may have several, by the benchmark's own key."""

    def __init__(
        self, rows: Sequence[Row], samples: Sequence[EvalSample], keys: Sequence[str], where: str, prefix: str
    ) -> None:
        self._known = {sample.id for sample in samples}
        self._prefix = prefix
        # where the image is the question, its name is an id
        by_image = keys[0] in IMAGE_KEYS
        self._images = ImageIndex(_names_of(samples)) if by_image else None
        more = [key for key in (*IMAGE_KEYS, "images") if key not in keys] if by_image else []
        self._keys = (keys[0], *more, *keys[1:])
        self._where = where
        self.used = any(self._value(row, key) is not None for row in rows for key in self._keys)
        self._counted = self._running_numbers(rows)

    def _value(self, row: Row, key: str) -> str | None:
        if key in IMAGE_KEYS or key == "images":
            return image_of(row).get(key)
        return as_id(row.get(key))

    def has(self, row: Row) -> bool:
        """Whether a row has anything that may be an id."""
        return any(key in row and row[key] is not None for key in self._keys)

    def names_image(self, row: Row) -> bool:
        """Whether a row names an image that is the question."""
        images = image_of(row).values() if self._images is not None else ()
        return any(self._resolved(name, "image") in self._known for name in images)

    def _resolved(self, value: str, key: str) -> str:
        """The id of a sample that the value means, or the value."""
        if value in self._known:
            return value
        if self._prefix + value in self._known:
            return self._prefix + value
        may_be_image = key not in _NUMBERS or not value.isdecimal()
        image = self._images.find(value) if self._images is not None and may_be_image else None
        return image if image is not None else value

    def _running_numbers(self, rows: Sequence[Row]) -> set[str]:
        """Keys that only count the rows, beside the benchmark's own: such a number may be some question's by chance."""
        found = set()
        for key in self._keys[1:]:
            if key in _NUMBERS and any(self._value(row, self._keys[0]) is not None for row in rows):
                values = [as_id(row.get(key)) for row in rows if row.get(key) is not None]
                numbers = sorted(int(value) for value in values if value is not None and value.isdecimal())
                whole = bool(numbers) and len(numbers) == len(values)
                if whole and numbers == list(range(numbers[0], numbers[-1] + 1)):
                    found.add(key)
        return found

    def of(self, row: Row, place: str) -> tuple[str, str]:
        """The key and the id of a row.

        Raises:
            DataError: it has none, or two that name different questions.
        """
        values = {key: value for key in self._keys if (value := self._value(row, key)) is not None}
        if not values:
            return "id", row_id(row, place, self._keys)
        resolved = {key: self._resolved(value, key) for key, value in values.items()}
        may_be = [key for key in values if key not in self._counts(values)]
        own = self._keys[0]
        if self._images is None and own in values:
            chosen = own
        else:
            chosen = next((key for key in may_be if resolved[key] in self._known), may_be[0])
        for key in may_be:
            if resolved[key] in self._known and resolved[chosen] in self._known and resolved[key] != resolved[chosen]:
                raise DataError(
                    f"{place}: {chosen} {values[chosen]!r} and {key} {values[key]!r} name two different questions; "
                    f"leave out the one that is wrong: the id is usually under {own}"
                )
        return chosen, resolved[chosen]

    def _counts(self, values: Mapping[str, str]) -> set[str]:
        """The keys of a row that are no id of the benchmark when others are there."""
        if self._images is None:  # an image is not the question
            others = {key for key in values if key in IMAGE_KEYS}
        else:  # LLaVA's number of a caption is no image
            others = {*_COUNTS} if any(key in IMAGE_KEYS or key == "images" for key in values) else set()
        found = (others | self._counted) - {self._keys[0]}
        return found if values.keys() - found else set()


def _names_of(samples: Sequence[EvalSample]) -> list[tuple[str, str]]:
    named = [(sample.id, sample.id) for sample in samples]
    return named + [(content(sample)[0], sample.id) for sample in samples if content(sample)[0]]


def _numbers_to_ids(rows: Sequence[Row], samples: Sequence[EvalSample], own_key: str) -> Sequence[Row]:
    if own_key in IMAGE_KEYS and any(row.get(own_key) is not None for row in rows):
        return rows  # a number beside it counts the rows, in whatever order they are
    own = {sample.id for sample in samples}
    ids = [as_id(next((row[key] for key in _NUMBERS if row.get(key) is not None), None)) or "" for row in rows]
    first = int(set(ids) == {str(number) for number in range(1, len(samples) + 1)})
    order = {str(number): sample.id for number, sample in enumerate(samples, first)}
    if not ids or not own.isdisjoint(ids) or not set(ids) <= order.keys():
        return rows
    return [{**row, "id": order[name]} for row, name in zip(rows, ids, strict=True)]


class _Asked:
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
        """The same answer for the other places where the same question about the same image stands."""
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


def _counts_its_own_way(row: Row) -> bool:
    if ASKED in row:
        return False
    return "doc_id" in row or ("index" in row and "prediction" in row) or ("id" not in row and "question" in row)


def _confirmed(row: Row, by_id: Mapping[str, EvalSample]) -> list[str]:
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
