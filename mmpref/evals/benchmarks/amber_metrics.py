"""The scoring rules of AMBER, and what they make of the items of ``amber``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.evals.benchmarks.contract import Counts, Items, ScoringProtocol, by_name
from mmpref.evals.text.yes_no import Reader, YesNo, read_lmms_eval, read_mmpref, read_vlmevalkit
from mmpref.statistics import Array, Formula, Metric, Ratio, rounded

GENERATIVE = "generative"
DIMENSIONS = (GENERATIVE, "existence", "attribute", "relation")


@dataclass(frozen=True, slots=True, kw_only=True)
class AmberProtocol(ScoringProtocol):
    """A rule of AMBER.

    Args:
        read: yes, no or unparsed of an answer and its question.
        of_questions: the metrics of the questions of a part that has these sections.
        covers: the dimensions that the rule is about.
        whole_dimensions: whether a dimension that has an answer must have all of them.
        folds_case: whether a capitalised word of a description is the same word.
        reads_empty: whether an empty description counts as one without hallucination.
        has_amber_score: whether chair and f1 are also put together.
        start, start_of_each: where the script's counters begin, once and for every description.
        when_empty: the value of a ratio over nothing; undefined where None.
        decimals: of the percentages of descriptions; None for all.
    """

    read: Reader
    of_questions: Callable[[str, Sequence[str]], dict[str, Metric]]
    covers: tuple[str, ...] = DIMENSIONS
    whole_dimensions: bool = False
    folds_case: bool = False
    reads_empty: bool = True
    has_amber_score: bool = False
    start: float = 0.0
    start_of_each: float = 0.0
    when_empty: float | None = None
    decimals: int | None = None


def count(item: Mapping[str, Any]) -> Counts:
    """What one description or one answer to a question adds."""
    if item["type"] == GENERATIVE:
        made_up = sum(noun["is"] == "hallucinated" for noun in item["nouns"])
        read = item["read"] != "unparsed"
        return {
            "descriptions": read,
            "clean": read and not made_up,
            "nouns": len(item["nouns"]),
            "hallucinated_nouns": made_up,
            "true_objects": len(item["objects"]),
            "covered_objects": len(item["covered"]),
            "tempting_objects": len(item["tempting"]),
            "tempted_objects": len(item["tempted"]),
            "words": item["num_words"],
        }
    says_no, is_no = item["read"] == "no", item["label"] == "no"
    row: dict[str, float] = {
        "asked": 1,
        "correct": item["correct"],
        "said_no": says_no,
        "said_yes": item["read"] == "yes",
        "is_no": is_no,
        "right_no": says_no and is_no,
    }
    section = item["sections"][0]
    return {**row, f"{section}/asked": 1, f"{section}/correct": item["correct"]}


_NO_DESCRIPTION = "there are no descriptions"
_NO_NOUN = "no description has a noun of AMBER's vocabulary"
_START = 0.001  # where the script's counters begin


def metrics(protocol: AmberProtocol, part: str, items: Items) -> Mapping[str, Metric]:
    """Those of descriptions and those of questions, as far as there are items of either."""
    generative = any(item["type"] == GENERATIVE for item in items)
    discriminative = not items or any(item["type"] != GENERATIVE for item in items)
    out: dict[str, Metric] = {}
    if generative:
        out |= _of_descriptions(protocol)
    if discriminative:
        sections = sorted({item["sections"][0] for item in items if item["sections"]})
        out |= protocol.of_questions(part, sections)
    if generative and discriminative and protocol.has_amber_score:
        out["amber_score"] = Formula(
            parts={"chair": out["chair"], "f1": out["f1"]},
            combine=lambda values: (1 - values["chair"] + values["f1"]) / 2,
            why_empty="chair or f1 is undefined",
        )
    return out


def _of_descriptions(protocol: AmberProtocol) -> dict[str, Metric]:
    parts = {
        "chair": ("hallucinated_nouns", "nouns", _NO_NOUN),
        "cover": ("covered_objects", "true_objects", "the images have no annotated object"),
        "clean": ("clean", "descriptions", _NO_DESCRIPTION),
        "cog": ("tempted_objects", "tempting_objects", "the images have no tempting object"),
    }
    found: dict[str, Ratio] = {}
    for name, (top, bottom, why) in parts.items():
        below = {bottom: 1.0}
        if protocol.start_of_each:
            below["descriptions"] = below.get("descriptions", 0.0) + protocol.start_of_each
        found[name] = Ratio(
            top={top: 1}, bottom=below, why_empty=why, offset=protocol.start, when_empty=protocol.when_empty
        )
    clean = found.pop("clean")

    def dirty(values: Mapping[str, Array]) -> Array:
        return 1 - values["clean"]

    hal = Formula(parts={"clean": clean}, combine=dirty, why_empty=_NO_DESCRIPTION)
    exact: dict[str, Metric] = {"chair": found["chair"], "cover": found["cover"], "hal": hal, "cog": found["cog"]}
    shown = exact
    if (decimals := protocol.decimals) is not None:
        shown = {name: rounded(metric, decimals) for name, metric in exact.items()}
    length = Ratio(top={"words": 1}, bottom={"descriptions": 1}, why_empty=_NO_DESCRIPTION, proportion=False)
    return {**shown, "mean_length": length}


_NO_QUESTIONS = "there are no questions"
_YES_RATIO = Ratio(top={"said_yes": 1}, bottom={"asked": 1}, why_empty=_NO_QUESTIONS)


def _shares(*, offset: float = 0.0, when_empty: float | None = None) -> dict[str, Metric]:
    """Accuracy, precision and recall; ``offset`` is added to what each divides by."""

    def share(top: str, bottom: str, why: str, empty: float | None) -> Ratio:
        return Ratio(top={top: 1}, bottom={bottom: 1}, why_empty=why, when_empty=empty, offset=offset)

    return {
        "accuracy": share("correct", "asked", _NO_QUESTIONS, None),
        "precision": share("right_no", "said_no", "no answer was read as no", when_empty),
        "recall": share("right_no", "is_no", "no question has the answer no", when_empty),
    }


def exact_shares(part: str, sections: Sequence[str]) -> dict[str, Metric]:
    """Of questions, with the positive class no."""
    why = "no answer was read as no, and no question has the answer no"
    f1 = Ratio(top={"right_no": 2}, bottom={"said_no": 1, "is_no": 1}, why_empty=why)
    return {**_shares(), "f1": f1, "yes_ratio": _YES_RATIO}


def official_shares(part: str, sections: Sequence[str]) -> dict[str, Metric]:
    """The same as the script prints them: its counters begin at a small number, and f1 is made of rounded values."""
    # the attribute section adds up three counters; the script divides by other small numbers there and in existence
    exact = _shares(offset=3 * _START if part == "attribute" else _START, when_empty=0.0)
    shown = {name: rounded(metric, 1) for name, metric in exact.items()}
    softener = 0.001 if part == "existence" else 0.0001

    def harmonic(values: Mapping[str, Array]) -> Array:
        precision, recall = values["precision"], values["recall"]
        return 2 * precision * recall / (precision + recall + softener)

    both = {"precision": shown["precision"], "recall": shown["recall"]}
    f1 = rounded(Formula(parts=both, combine=harmonic, why_empty=_NO_QUESTIONS), 1)
    return {**shown, "f1": f1, "yes_ratio": _YES_RATIO}


def mean_accuracy(part: str, sections: Sequence[str]) -> dict[str, Metric]:
    """VLMEvalKit's headline: the plain mean over the sections that were asked, however many questions each has."""
    why = "there are no questions"

    def mean(values: Mapping[str, Array]) -> Array:
        return sum(values.values()) / len(values)  # type: ignore[return-value]

    by_section: dict[str, Metric] = {
        section: Ratio(top={f"{section}/correct": 1}, bottom={f"{section}/asked": 1}, why_empty=why)
        for section in sections
    }
    none = Ratio(top={}, bottom={}, why_empty=why)
    return {"accuracy": Formula(parts=by_section, combine=mean, why_empty=why) if by_section else none}


def read_official(text: str, question: str = "") -> YesNo:
    """Exactly ``Yes`` or ``No``; "Yes." and "yes" are neither."""
    return {"Yes": "yes", "No": "no"}.get(text, "unparsed")  # type: ignore[return-value]


PROTOCOLS = by_name(
    AmberProtocol(
        name="mmpref",
        read=read_mmpref,
        of_questions=exact_shares,
        whole_dimensions=True,
        folds_case=True,
        reads_empty=False,
        has_amber_score=True,
    ),
    AmberProtocol(
        name="official",
        scores_unread=True,
        read=read_official,
        of_questions=official_shares,
        start=_START,
        when_empty=0.0,
        decimals=1,
    ),
    AmberProtocol(
        name="lmms_eval",
        scores_unread=True,
        read=read_lmms_eval,
        of_questions=exact_shares,
        covers=(GENERATIVE,),
        start_of_each=_START,
    ),
    AmberProtocol(
        name="vlmevalkit",
        scores_unread=True,
        read=read_vlmevalkit,
        of_questions=mean_accuracy,
        covers=DIMENSIONS[1:],
    ),
)
