"""Questions that an option or a file chooses take the answers to all: those to the others are left out and counted."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.errors import DataError
from mmpref.evals import export_answers, score
from tests.unit.evals.cases import arguments, load


def hallusionbench():
    rows = [
        {
            "category": "VD" if image else "VS",
            "subcategory": "chart",
            "set_id": str(n),
            "figure_id": "1" if image else "0",
            "question_id": "0",
            "visual_input": "1" if image else "0",
            "question": f"Is number {n} the larger?",
            "gt_answer": str(n % 2),
            "gt_answer_details": "",
            "filename": f"./VD/chart/{n}.png" if image else None,
        }
        for n, image in enumerate([False, True, True, False, True, True])
    ]
    return rows, [{**row, "model_prediction": "Yes" if row["gt_answer"] == "1" else "No"} for row in rows]


NOTE = "2 answers to questions outside of view=image are left out"


@pytest.mark.parametrize("layout", ["official", "id", "number", "bare number"])
def test_a_view_of_hallusionbench_takes_the_answers_to_all_questions(layout):
    """174 of 178 rows were said to show another question."""
    questions, full = hallusionbench()
    names = [
        "_".join(row[k] for k in ("category", "subcategory", "set_id", "figure_id", "question_id")) for row in full
    ]
    rows = {
        "official": full,
        "id": [{"id": name, "text": row["model_prediction"]} for name, row in zip(names, full, strict=True)],
        "number": [{"id": n, "prompt": r["question"], "text": r["model_prediction"]} for n, r in enumerate(full)],
        "bare number": [{"id": n, "text": row["model_prediction"]} for n, row in enumerate(full)],
    }[layout]
    found = score("hallusionbench", questions, rows, view="image", resamples=10)
    assert (found.n, found.metrics["a_acc"]) == (4, 1)
    assert NOTE in found.notes
    whole = score("hallusionbench", questions, rows, resamples=10)
    assert (whole.n, whole.metrics["a_acc"]) == (6, 1)
    wrong = score("hallusionbench", questions, rows, "vlmevalkit", view="image", resamples=10)
    assert wrong.n == 4


def test_answers_to_the_view_alone_are_taken_as_they_are():
    questions, full = hallusionbench()
    kept = [row for row in full if row["visual_input"] != "0"]
    for rows in (kept, [{"id": n, "text": row["model_prediction"]} for n, row in enumerate(kept)]):
        found = score("hallusionbench", questions, rows, view="image", resamples=10)
        assert (found.n, found.metrics["a_acc"]) == (4, 1)
        assert "left out" not in " ".join(found.notes)


def test_what_answers_no_question_of_the_file_is_refused_in_a_view_too():
    questions, full = hallusionbench()
    odd = {**full[1], "set_id": "99", "question": "Is number 99 the larger?"}
    with pytest.raises(DataError, match="row 7: fits no question that was asked"):
        score("hallusionbench", questions, [*full, odd], view="image")
    ids = [{"id": f"VD_chart_{n}_1_0", "text": "Yes"} for n in (1, 2, 4, 5, 99)]
    with pytest.raises(DataError, match="1 of 5 answers have an id that no question has: 'VD_chart_99_1_0'"):
        score("hallusionbench", questions, ids, view="image")
    with pytest.raises(DataError, match="all 2 answers are to questions outside of view=image"):
        score("hallusionbench", questions, [row for row in full if row["visual_input"] == "0"], view="image")
    shown = [{**row, "question": "Is the sky blue?"} for row in full]
    with pytest.raises(DataError, match="no row shows the question that its id has"):
        score("hallusionbench", questions, shown, view="image")


def test_verdicts_on_all_answers_are_taken_for_a_view(tmp_path):
    questions, full = hallusionbench()
    judged = [{**row, "gpt4_gpt_check": "1", "same": "1"} for row in full]
    assert score("hallusionbench", questions, judged, view="image", resamples=10).metrics["a_acc"] == 1
    done = export_answers("hallusionbench", questions, full, "jsonl", tmp_path / "a.jsonl", view="image")
    assert done.num_rows == 4


def test_a_task_of_amber_takes_the_answers_to_all_questions(tmp_path):
    questions, answers, _ = arguments("amber", tmp_path)
    for task in ("generative", "discriminative", "existence"):
        found = score("amber", questions, answers, task=task, resamples=10)
        assert 0 < found.n < len(answers)
        assert f"{len(answers) - found.n:,} answers to questions outside of task={task} are left out" in found.notes


def test_prompts_of_chair_take_the_captions_of_all_annotated_images():
    truth = {"1": ["dog"], "2": ["cat"], "3": ["bus"]}
    captions = [{"image_id": n, "caption": "A dog."} for n in (1, 2, 3)]
    found = score("chair", truth, captions, prompts=[{"image_id": 1, "text": "Describe."}], resamples=10)
    assert (found.n, found.metrics["chair_s"]) == (1, 0)
    assert "2 answers to questions outside of prompts= are left out" in found.notes


# --- POPE's splits ----------------------------------------------------------------------------------------------------

SPLITS = ("random", "popular", "adversarial")


@pytest.fixture
def pope(tmp_path):
    """Files of three splits, whose questions and ids are the same but for one."""
    for split in SPLITS:
        rows = [
            {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {split if n == 1 else n}?", "label": "yes"}
            for n in (1, 2, 3)
        ]
        (tmp_path / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def answers(of, **more):
    return [{"question_id": n, "text": "Yes" if of == "random" else "No", **more} for n in (1, 2, 3)]


def test_rows_of_another_split_are_refused_by_the_name_of_the_file(pope, tmp_path):
    for key in ("category", "split"):
        with pytest.raises(DataError, match=r"all 3 rows say that they answer the split adversarial, and .* of random"):
            score("pope", pope / "coco_pope_random.json", answers("random", **{key: "adversarial"}))
    kept = answers("random", category="random,popular")
    assert score("pope", pope / "coco_pope_random.json", kept, resamples=10).metrics["accuracy"] == 1
    for name in ("detail", "pope", "test"):
        given = answers("random", category=name)
        assert score("pope", pope / "coco_pope_random.json", given, resamples=10).metrics["accuracy"] == 1
    rows = [*answers("random", category="random"), *answers("popular", category="popular")]
    with pytest.raises(DataError, match="3 of 6 rows answer other splits, and `pairing=order` counts them"):
        score("pope", pope / "coco_pope_random.json", rows, "official", pairing="order")


def test_one_split_takes_its_rows_of_a_log_of_all(pope):
    rows = [row for split in SPLITS for row in answers(split, category=split)]
    for questions, n, left in (
        (pope / "coco_pope_random.json", 3, 6),
        ([pope / "coco_pope_random.json", pope / "coco_pope_popular.json"], 6, 3),
        (pope, 9, 0),
    ):
        found = score("pope", questions, rows, resamples=10)
        assert (found.n, found.metrics.get("random/accuracy", found.metrics["accuracy"])) == (n, 1)
        assert (f"{left} answers to other splits are left out" in " ".join(found.notes)) == (left > 0)


def test_one_split_takes_its_file_of_several(pope, tmp_path, capsys):
    files = []
    for split in SPLITS:
        files.append(tmp_path / f"answers_{split}.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, answers(split))), encoding="utf-8")
    command = ["score", "--benchmark", "pope", *(arg for file in files for arg in ("--answers", str(file)))]
    assert main([*command, "--questions", str(pope / "coco_pope_random.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "6 answers to other splits are left out: popular, adversarial" in said
    found = score("pope", [pope / f"coco_pope_{split}.json" for split in SPLITS[:2]], files, resamples=10)
    assert (found.n, found.metrics["random/accuracy"], found.metrics["popular/accuracy"]) == (6, 1, 0)


def test_the_fixture_of_hallusionbench_is_scored_as_before():
    found = load("hallusionbench")
    assert score("hallusionbench", found["questions"], found["answers"], resamples=10).n == len(found["questions"])
