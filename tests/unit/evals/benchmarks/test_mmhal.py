"""MMHal-Bench: ratings from a judge's rows or words, and what is done when they are missing."""

import json

import pytest

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.evals import load_samples, score
from mmpref.evals.benchmarks.mmhal import TYPES, read_mmpref, read_official

QUESTIONS = [
    {
        "question_type": TYPES[n % 8],
        "question_topic": "t",
        "image_id": f"image{n}",
        "image_src": f"https://example.org/x/{n}.jpg",
        "image_content": ["Dog"],
        "question": f"What is {n}?",
        "gt_answer": "It.",
        "model_answer": "",
    }
    for n in range(96)
]
ANSWERS = [{"id": row["image_id"], "text": "A dog."} for row in QUESTIONS]


def told(scores):
    return [{"id": f"image{n}", "score": value, "judge": "j"} for n, value in enumerate(scores)]


def test_ratings_by_hand():
    """Half 6 and half 2: mean 4, half hallucinate, and 3 and 2 points of 3 are informative."""
    found = score("mmhal", QUESTIONS, ANSWERS, verdicts=told([6, 2] * 48))
    assert {name: found.metrics[name] for name in ("score", "hallucination_rate", "informativeness")} == pytest.approx(
        {"score": 4, "hallucination_rate": 0.5, "informativeness": 2.5 / 3}
    )
    assert (found.metrics["attribute/score"], found.metrics["adversarial/hallucination_rate"]) == (6, 1)
    assert found.metrics["mean_length"] == 2
    assert found.notes == ("judged by j", "ratings are from 0 to 6")


@pytest.mark.parametrize(
    ("review", "official", "ours"),
    [
        ("Fine.\nRating: 5, very informative", 5, 5),
        ("rating: 0", 0, 0),
        ("Rating:5", 0, 5),
        ("**Rating:** 5", 0, 5),
        ("Rating: 5/6", 5, 5),
        ("The rating is 4.", 0, 4),
        ("Rating: 5. I repeat, Rating: 5", 5, 5),
        ("Rating: 5 or Rating: 2", 0, None),
        ("Rating: 3.5", 3, None),
        ("Rating: 10", 1, None),
        ("no idea", 0, None),
    ],
)
def test_what_is_read_in_a_review(review, official, ours):
    assert read_official(review) == official
    assert read_mmpref(review) == ours


def test_a_review_that_cannot_be_read_is_missing_and_not_zero():
    reviews = [{"id": a["id"], "review": "Rating: 6", "judge": "j"} for a in ANSWERS]
    reviews[5]["review"] = "Rating: 4 or 5, Rating: 3"
    ours = score("mmhal", QUESTIONS, ANSWERS, verdicts=reviews)
    assert (ours.metrics["score"], ours.n, ours.n_missing) == (6, 95, 1)
    reviews[7]["review"] = reviews[5]["review"]
    with pytest.raises(EvalIncompleteError, match="states no single rating") as raised:
        score("mmhal", QUESTIONS, ANSWERS, verdicts=reviews)
    assert raised.value.exit_code == 8
    assert score("mmhal", QUESTIONS, ANSWERS, "official", verdicts=reviews).metrics["score"] == pytest.approx(
        6 * 94 / 96
    )


def test_reviews_may_stand_in_the_filled_template(tmp_path):
    file = tmp_path / "merged.json"
    rows = [{**row, "model_answer": "A dog.", "gpt4_review": "Rating: 3"} for row in QUESTIONS]
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert score("mmhal", QUESTIONS, file, "official").metrics["score"] == 3


def test_the_judges_file_alone_is_enough_for_a_filled_template():
    filled = [{**row, "model_answer": "A dog."} for row in QUESTIONS]
    reviews = [{"model": "gpt-4-0314", "choices": [{"message": {"content": "Rating: 3"}}]}] * 96
    found = score("mmhal", filled, reviews, "official")
    assert (found.metrics["score"], found.metrics["mean_length"]) == (3, 2)
    assert found.notes[0] == "judged by gpt-4-0314"


def test_the_judges_file_must_have_every_question():
    with pytest.raises(DataError, match="95 reviews in the order of the template, but 96 questions"):
        score("mmhal", QUESTIONS, ANSWERS, "official", verdicts=[{"choices": [{"message": {"content": "x"}}]}] * 95)
    with pytest.raises(DataError, match="no chat completion"):
        score("mmhal", QUESTIONS, ANSWERS, "official", verdicts=[{"choices": []}] * 96)


def test_without_verdicts_there_is_no_number():
    with pytest.raises(EvalIncompleteError, match="pass verdicts=FILE"):
        score("mmhal", QUESTIONS, ANSWERS)


def test_the_public_template_is_read(bench_data):
    samples = load_samples("mmhal", bench_data / "mmhal" / "mmhal-bench_answer_template.json")
    assert len(samples) == 96
    assert [sample.meta["type"] for sample in samples[:8]] == list(TYPES)
