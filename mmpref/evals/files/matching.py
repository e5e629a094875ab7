"""Which question each row of an answer file answers.

By the benchmark's own key where a row has several; what else a row shows (its prompt, its image, its split) must agree.
A row of a tool that counts its own way (VLMEvalKit's ``index``, lmms-eval's ``doc_id``, LLaVA's id of MME, which two
questions share) is matched by what was asked: the text of the question and the name of the image, or an id that the
question's text confirms. Rows without any id, as LLaMA-Factory writes them, are taken in their order when every one of
them shows the question at its place. A row that fits no question is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmpref.errors import DataError
from mmpref.evals.files.by_question import ByQuestion, confirmed, counts_its_own_way
from mmpref.evals.files.evidence import Evidence
from mmpref.evals.files.image_names import image_of
from mmpref.evals.files.layouts import layout_of, place_of
from mmpref.evals.files.question_words import asked_text, content
from mmpref.evals.files.row_ids import IdRules, RowIds, numbers_to_ids
from mmpref.evals.files.row_order import NOT_CONFIRMED, by_order, fits, unconfirmed_order
from mmpref.evals.files.rows import LABEL_OR_TEXT, Saved, answer_text, cut_by_length, text_key
from mmpref.files.rows import Row, row_id
from mmpref.records import Answer, EvalSample

_USUAL = IdRules()
_OF_AN_ANSWER = frozenset(("id", "question_id", "index", "question", "prompt", LABEL_OR_TEXT))
_FEW = 4  # answers that may all be right by chance, and word for word


def match(
    rows: Sequence[Row],
    samples: Sequence[EvalSample],
    where: str,
    rules: IdRules = _USUAL,
    *,
    among: Sequence[EvalSample] = (),
) -> Saved:
    """Each row as the answer to its question; a row without a known id keeps the one it has, for others to refuse.

    Args:
        where: what the source of the rows is called in messages.
        rules: how the rows name their question.
        among: all questions of the benchmark, when these are a part.

    Raises:
        DataError: a row has no usable text, or neither an id nor a question that was asked; two ids of a row name
            different questions; or rows show other questions than those of their ids.
    """
    layout = layout_of(rows)
    if rules.numbered and not any(map(rules.ids_of, rows)):  # a number beside the fields of an id is one of these
        rows = numbers_to_ids(rows, samples, rules.keys[0])
    ids = RowIds(rows, samples, where, rules)
    if not ids.used and not any(map(image_of, rows)) and (found := by_order(rows, samples)) is not None:
        return _in_order(rows, found[1], where, found[0])
    by_id = {sample.id: sample for sample in samples}
    asked = ByQuestion(samples)
    finder = _Finder(rows=rows, samples=samples, by_id=by_id, rules=rules, ids=ids, asked=asked)
    evidence = Evidence(where, among or samples)
    answers: list[Answer] = []
    ways: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        place = place_of(row, where, number)
        names, way = finder.find(row, place)
        evidence.see(number, row, by_id.get(names[0]))
        ways.setdefault(way)
        answers += [_answer(name, row, place, by_id.get(name)) for name in names]
    notes = evidence.refuse_others()
    _refuse_labels(rows, answers, by_id, where)
    return Saved(answers + asked.repeated(answers), read_as=_read_as(layout, rows, ways), notes=notes)


def _refuse_labels(rows: Sequence[Row], answers: Sequence[Answer], by_id: Mapping[str, EvalSample], where: str) -> None:
    """Refuse the questions themselves in the place of answers: the label may stand under the name of an answer.

    Raises:
        DataError: rows that show more than question and answer have the label of their question under it, all of them.
    """
    if len(rows) < _FEW or not all(text_key(row) == LABEL_OR_TEXT and row.keys() - _OF_AN_ANSWER for row in rows):
        return
    targets = [sample.target if (sample := by_id.get(answer.id)) is not None else None for answer in answers]
    said = [answer.text.strip(" ().").casefold() for answer in answers]
    if all(isinstance(target, str) and target.casefold() == text for target, text in zip(targets, said, strict=True)):
        raise DataError(
            f"{where}: '{LABEL_OR_TEXT}' is the label of the question in all {len(rows)} rows: these are the "
            "questions, and not answers to them; give the file that the model wrote, with what it said as 'text'"
        )


def _in_order(rows: Sequence[Row], ordered: Sequence[EvalSample], where: str, how: str) -> Saved:
    """Rows without ids as the answers to these samples, one by one; ``how`` the order was made sure."""
    pairs = enumerate(zip(ordered, rows, strict=True), 1)
    return Saved(
        [_answer(sample.id, row, place_of(row, where, number), sample) for number, (sample, row) in pairs],
        read_as=_read_as(layout_of(rows), rows, {how: None}),
        notes=(f"rows without ids were taken in their order, {how.partition('(')[2].rstrip(')')}",),
        warnings=(unconfirmed_order(where),) if NOT_CONFIRMED in how else (),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finder:
    """Finds the questions that a row answers."""

    rows: Sequence[Row]
    samples: Sequence[EvalSample]
    by_id: Mapping[str, EvalSample]
    rules: IdRules
    ids: RowIds
    asked: ByQuestion

    def find(self, row: Row, place: str) -> tuple[list[str], str]:
        """The ids of the questions, and by what they were found.

        Raises:
            DataError: the row has neither an id nor a question that was asked, or ids of different questions.
        """
        if names := [name for name in self.rules.ids_of(row) if name in self.by_id]:
            return names, "the ids that its fields make"
        if counts_its_own_way(row) and not self.ids.names_image(row):
            if names := confirmed(row, self.by_id):
                return names, "ids that the question confirms"
            return self.asked.take(row, place), "question and image"
        if not self.ids.has(row):
            return self._without_id(row, place), "question and image"
        key, name = self.ids.of(row, place)
        if name not in self.by_id and (names := self.asked.find(row)):
            return names, "question and image"
        return [name], key

    def _without_id(self, row: Row, place: str) -> list[str]:
        """The ids that a row without one answers by what it was asked.

        Raises:
            DataError: it shows no image, and its place in the file is another question's.
        """
        if image_of(row) or not asked_text(row):
            return self.asked.take(row, place) if asked_text(row) else [row_id(row, place)]
        raise DataError(
            f"{place}: rows without id and image are taken in the order of the questions when each shows its question, "
            f"and {self._why_not_in_order()}; add the benchmark's ids to the rows, or put them in the order of the "
            "questions"
        )

    def _why_not_in_order(self) -> str:
        rows, samples = self.rows, self.samples
        if len(rows) != len(samples):
            return f"there are {len(rows)} rows and {len(samples)} questions"
        odd = next((n for n, pair in enumerate(zip(rows, samples, strict=True), 1) if not fits(*pair)), 1)
        want = content(samples[odd - 1])[1] or samples[odd - 1].prompt[-1].text
        return f"row {odd} shows {asked_text(rows[odd - 1])[:160]!r} where {want[:80]!r} is asked, or another label"


def _read_as(layout: str, rows: Sequence[Row], ways: Mapping[str, None]) -> str:
    """How the rows were read, for people."""
    keys = dict.fromkeys(key for row in rows if (key := text_key(row)) is not None)
    text = f", text under {' or '.join(repr(key) for key in keys)}" if keys else ""
    return f"{layout}{text}, matched by {' or '.join(ways)}" if rows else layout


def _answer(name: str, row: Row, place: str, sample: EvalSample | None) -> Answer:
    asked = content(sample)[1] if sample is not None else ""
    text = answer_text(row, place, asked=asked or asked_text(row))
    return Answer(id=name, text=text, cut=cut_by_length(row), place=place)
