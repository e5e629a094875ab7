"""MME by hand: two images of one subtask, and the folder of the tool."""

import pytest

from mmpref.errors import DataError
from mmpref.evals import load_samples, score
from mmpref.evals.benchmarks.mme import COGNITION, PERCEPTION, PROTOCOLS


def rows(subtask="existence", images=("a.jpg", "b.jpg")):
    return [
        {"category": subtask, "image": image, "question": f"{image} {n}? Please answer yes or no.", "answer": label}
        for image in images
        for n, label in ((1, "Yes"), (2, "No"))
    ]


def answers(questions, texts):
    ids = [sample.id for sample in load_samples("mme", questions)]
    return [{"id": name, "text": text} for name, text in zip(ids, texts, strict=True)]


def test_points_by_hand():
    """3 of 4 answers and 1 of 2 images are right: 75 + 50 points."""
    questions = rows()
    found = score("mme", questions, answers(questions, ["Yes", "No", "Yes", "Yes"]))
    assert found.metrics["existence"] == 125
    assert (found.metrics["existence/accuracy"], found.metrics["existence/accuracy_plus"]) == (0.75, 0.5)
    assert found.metrics["yes_ratio"] == 0.75
    assert "points" in found.notes[0]
    assert [sample.id for sample in load_samples("mme", questions)][:2] == ["existence/a.jpg/1", "existence/a.jpg/2"]


def test_a_sum_needs_all_its_subtasks():
    questions = [row for subtask in PERCEPTION for row in rows(subtask)]
    found = score("mme", questions, [{"id": s.id, "text": s.target} for s in load_samples("mme", questions)])
    assert found.metrics["perception"] == 2000
    assert found.metrics["cognition"] is None
    assert "these were not asked: commonsense_reasoning" in found.undefined["cognition"]
    questions += [row for subtask in COGNITION for row in rows(subtask)]
    found = score("mme", questions, [{"id": s.id, "text": s.target} for s in load_samples("mme", questions)])
    assert (found.metrics["perception"], found.metrics["cognition"]) == (2000, 800)
    assert "perception" not in found.intervals, "images that are all alike say nothing about the width"


@pytest.mark.parametrize(
    ("text", "official", "lmms_eval", "vlmevalkit", "ours"),
    [
        ("Yes", "yes", "yes", "yes", "yes"),
        (" Yes", "yes", "yes", "yes", "yes"),
        ("  Yes", "unparsed", "yes", "yes", "yes"),
        ("**Yes**", "unparsed", "unparsed", "unparsed", "yes"),
        ("**No**", "no", "no", "unparsed", "no"),
        ("know", "no", "no", "unparsed", "unparsed"),
        ("eyes", "yes", "yes", "unparsed", "unparsed"),
        ("y", "unparsed", "yes", "unparsed", "yes"),
        ("n.", "unparsed", "no", "unparsed", "no"),
        ("It is not", "unparsed", "unparsed", "unparsed", "no"),
        ("not yes", "no", "no", "yes", "no"),
        ("", "unparsed", "unparsed", "unparsed", "unparsed"),
    ],
)
def test_what_each_protocol_reads(text, official, lmms_eval, vlmevalkit, ours):
    assert [PROTOCOLS[name].read(text, "") for name in ("official", "lmms_eval", "vlmevalkit", "mmpref")] == [
        official,
        lmms_eval,
        vlmevalkit,
        ours,
    ]


def test_rows_of_the_tools_are_matched_by_subtask_image_and_question():
    """Images of two subtasks share their names; lmms-eval has put its own words for the question's last sentence."""
    questions = [*rows("existence"), *rows("count")]
    logged = [
        {
            "doc_id": number,
            "filtered_resps": [row["answer"]],
            "input": row["question"].replace(" Please answer yes or no.", "\nAnswer the question using a single word."),
            "mme_perception_score": {
                "question_id": f"{row['category']}/{row['image']}",
                "category": row["category"],
                "score": 1.0,
            },
        }
        for number, row in enumerate(reversed(questions))
    ]
    found = score("mme", questions, logged, "lmms_eval")
    assert (found.metrics["existence"], found.metrics["count"]) == (200, 200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "colour"}, "MME has no subtask 'colour'"),
        ({"answer": "maybe"}, "questions, row 1: answer is 'maybe'"),
        ({"image": "c.jpg"}, "row 1: existence/c.jpg has 1 question, and MME asks two"),
        ({"question": None}, "question is missing or not text"),
    ],
)
def test_bad_questions_are_named(change, message):
    questions = rows()
    questions[0] = {**questions[0], **change}
    with pytest.raises(DataError, match=message):
        load_samples("mme", questions)


def test_a_folder_without_subtasks_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"no subtask file such as existence\.txt"):
        load_samples("mme", tmp_path)


def test_subtask_files_with_a_mark_at_the_start_or_in_another_encoding(tmp_path):
    for name, start in (("questions", b""), ("answers", b"\xef\xbb\xbf")):
        (tmp_path / name).mkdir()
        lines = "".join(f"1.jpg\tIs it {n}?\t{label}\tYes\r\n" for n, label in enumerate(("Yes", "No")))
        (tmp_path / name / "count.txt").write_bytes(start + lines.encode())
    found = score("mme", tmp_path / "questions", tmp_path / "answers", "official", resamples=20)
    assert found.metrics["count"] == 50
    (tmp_path / "answers" / "count.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"count\.txt cannot be read"):
        score("mme", tmp_path / "questions", tmp_path / "answers")
