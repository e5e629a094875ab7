"""What CHAIR and Object HalBench share: the objects that answers mention, against those of their images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.evals.benchmarks.contract import Counts
from mmpref.evals.text.vocabulary import Vocabulary, vocabulary_of
from mmpref.records import EvalSample
from mmpref.statistics import Metric, Ratio


def vocabulary_for(
    synonyms: str | Path | Iterable[str] | None, samples: Sequence[EvalSample]
) -> tuple[Vocabulary, str]:
    """The words that name objects and a note on where they are from, for samples whose ``target`` is the objects and
    the reference captions of an image (``vocabulary_of``)."""
    names = (name for sample in samples for name in sample.target[0])
    return vocabulary_of(synonyms, names, from_coco=any(sample.meta["from_coco"] for sample in samples))


def count_objects(item: Mapping[str, Any], *, not_named: str) -> Counts:
    """What one answer adds.

    Args:
        not_named: the key of the true objects that the answer does not name.
    """
    return {
        "answers": item.get("counted", True),  # items of earlier versions do not say
        "naming_answers": bool(item["mentions"]),
        "hallucinated_answers": bool(item["hallucinated"]),
        "mentions": len(item["mentions"]),
        "hallucinated_mentions": sum(mention["hallucinated"] for mention in item["mentions"]),
        "true_objects": len(item["objects"]),
        "found_objects": len(item["objects"]) - len(item[not_named]),
        "words": item["num_words"],
    }


def object_metrics(answers: str, names_nothing: str) -> dict[str, Metric]:
    """``chair_s``, ``chair_i``, ``recall`` and ``mean_length``.

    Args:
        answers: what the answers are called where there are none.
        names_nothing: why ``chair_i`` is undefined where no answer mentions an object.
    """
    no_answers = f"there are no {answers}"
    return {
        "chair_s": Ratio(top={"hallucinated_answers": 1}, bottom={"answers": 1}, why_empty=no_answers),
        "chair_i": Ratio(top={"hallucinated_mentions": 1}, bottom={"mentions": 1}, why_empty=names_nothing),
        "recall": Ratio(
            top={"found_objects": 1}, bottom={"true_objects": 1}, why_empty="the ground truth of these images is empty"
        ),
        "mean_length": Ratio(top={"words": 1}, bottom={"answers": 1}, why_empty=no_answers, proportion=False),
    }
