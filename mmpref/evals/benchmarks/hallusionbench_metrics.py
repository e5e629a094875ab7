"""The scoring rules of HallusionBench, and what they make of the items of ``hallusionbench``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmpref.evals.benchmarks.contract import Counts, Items, ScoringProtocol, by_name
from mmpref.evals.text.yes_no import YesNo, read_mmpref, read_vlmevalkit, says_unsure
from mmpref.statistics import Metric, Ratio, rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class HallusionBenchProtocol(ScoringProtocol):
    """A rule of HallusionBench.

    Args:
        read: what an answer says where no judge decides.
        takes_verdicts: whether a judge may decide.
        with_image_only: whether the questions without an image are left out.
        excuses_unclear: whether "unclear" is right where the question has no image and is answered from knowledge.
        says_yes_by_correctness: whether an answer that was read is still taken to say yes where it is right about a yes
            or wrong about a no, as the script does with judged answers.
        decimals, decimals_judged: of a percentage, where a rule read the answers and where a judge did; None for all.
    """

    read: Callable[[str, str], Literal[YesNo, "unclear"]]
    takes_verdicts: bool = True
    with_image_only: bool = False
    excuses_unclear: bool = True
    says_yes_by_correctness: bool = False
    decimals: int | None = None
    decimals_judged: int | None = None


def _read_or_unclear(text: str, question: str) -> Literal[YesNo, "unclear"]:
    """mmpref's reader; "I cannot tell" is unclear."""
    read = read_mmpref(text, question)
    return "unclear" if read == "unparsed" and says_unsure(text, question) else read


def _read_lmms_eval(text: str, question: str) -> YesNo:
    """The rule that is commented out in lmms-eval: every answer without "yes" is a no."""
    return "yes" if "yes" in text.lower() else "no"


PROTOCOLS = by_name(
    HallusionBenchProtocol(name="mmpref", read=_read_or_unclear),
    HallusionBenchProtocol(
        name="official",
        scores_unread=True,
        read=_read_or_unclear,
        says_yes_by_correctness=True,
        decimals=4,
        decimals_judged=4,
    ),
    HallusionBenchProtocol(
        name="lmms_eval", scores_unread=True, read=_read_lmms_eval, with_image_only=True, decimals_judged=4
    ),
    HallusionBenchProtocol(
        name="vlmevalkit",
        scores_unread=True,
        read=read_vlmevalkit,
        takes_verdicts=False,
        with_image_only=True,
        excuses_unclear=False,
    ),
)


def counts(items: Items) -> Counts:
    """Of one set, which has whole figures and whole pairs. A group with a missing verdict is in no number."""
    decided = [item for item in items if not item["missing"]]
    figures = _groups([item for item in items if item["category"] == "VD" or item["figure_id"] != "0"], "figure_id")
    row = {
        "asked": float(len(decided)),
        "right": sum(item["correct"] for item in decided),
        "wrong": sum(not item["correct"] for item in decided),
        "wrong_on_no": sum(not item["correct"] and item["label"] == "no" for item in decided),
        "says_yes": sum(item["says_yes"] for item in decided),
        "is_yes": sum(item["label"] == "yes" for item in decided),
        "figures": len(figures),
        "figures_right": sum(share == 1 for share in figures),
        "figures_wrong": sum(share == 0 for share in figures),
        "figure_shares": sum(figures),
    }
    for name, part in (
        ("pairs", items),
        ("easy_pairs", [item for item in items if item["visual_input"] != "2"]),
        ("hard_pairs", [item for item in items if item["visual_input"] == "2"]),
    ):
        shares = _groups(part, "question_id")
        row |= {name: len(shares), f"{name}_right": sum(share == 1 for share in shares)}
    for blame in ("lh", "vi", "mixed", "?"):
        row[f"blame_{blame}"] = sum(item["blame"] == blame for item in decided)
    return row


def _groups(items: Items, key: str) -> list[float]:
    """The share of right answers in every complete group of the items of one set."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(item[key], []).append(item)
    complete = [group for group in groups.values() if not any(item["missing"] for item in group)]
    return [sum(item["correct"] for item in group) / len(group) for group in complete]


def _share(top: str, bottom: str, why: str) -> Ratio:
    return Ratio(top={top: 1}, bottom={bottom: 1}, why_empty=why)


_NONE = "there are no questions"
_HEADLINE: dict[str, Metric] = {
    "a_acc": _share("right", "asked", _NONE),
    "f_acc": _share("figures_right", "figures", "no figure has all its answers"),
    "q_acc": _share("pairs_right", "pairs", "no pair of questions has all its answers"),
    "easy_a_acc": _share("easy_pairs_right", "easy_pairs", "there are no questions about original figures"),
    "hard_a_acc": _share("hard_pairs_right", "hard_pairs", "there are no questions about edited figures"),
}
_ERRORS = {"blame_lh": 1.0, "blame_vi": 1.0, "blame_mixed": 1.0}


def metrics(protocol: HallusionBenchProtocol, part: str, items: Items) -> Mapping[str, Metric]:
    """Accuracies and the consistency within figures; for all questions also the diagnosis and the share of yes."""
    figures, why_figures = "figures", "no figure has all its answers"
    consistency: dict[str, Metric] = {
        "figure_inconsistent": Ratio(
            top={figures: 1, "figures_right": -1, "figures_wrong": -1}, bottom={figures: 1}, why_empty=why_figures
        ),
        "figure_wrong": _share("figures_wrong", figures, why_figures),
        "figure_score": _share("figure_shares", figures, why_figures),
    }
    unknown = any(item["blame"] == "?" for item in items)
    why_blame = (
        "the cause of some errors is not known: it needs the answer to figure 0 and the judge's 'same'"
        if unknown
        else "there is no error to blame on anything"
    )
    blame: dict[str, Metric] = {
        name: Ratio(top={f"blame_{name}": 1}, bottom={} if unknown else _ERRORS, why_empty=why_blame)
        for name in ("lh", "vi", "mixed")
    }
    bias: dict[str, Metric] = {
        "yes_ratio": _share("says_yes", "asked", _NONE),
        "yes_diff": Ratio(top={"says_yes": 1, "is_yes": -1}, bottom={"asked": 1}, why_empty=_NONE, proportion=False),
        "fp_ratio": _share("wrong_on_no", "wrong", "no answer is wrong"),
    }
    shown: dict[str, Metric] = {**_HEADLINE, **consistency, **blame}
    judged = any(item["read"] == "judged" for item in items)
    if (decimals := protocol.decimals_judged if judged else protocol.decimals) is not None:
        shown = {name: rounded(metric, decimals) for name, metric in shown.items()}
    if part not in ("", "VD", "VS"):
        return {name: shown[name] for name in ("a_acc", "f_acc", "q_acc")}
    return shown | bias if part == "" else {name: shown[name] for name in (*_HEADLINE, *consistency)}
