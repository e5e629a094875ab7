"""Whatever is wrong with a row of questions, answers or verdicts is named by its file and row, in every benchmark."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.errors import DataError
from mmpref.evals import score
from tests.unit.evals.cases import NAMES, amber_folder, arguments, load

PAIRS = [{"id": f"p{k}", "prompt": "Which?", "chosen": "This one.", "rejected": "That."} for k in range(4)]
MARGINS = [{"id": f"p{k}", "chosen": -1.0, "rejected": -2.0} for k in range(4)]
INSTRUCTIONS = [{"id": k, "prompt": f"Name {k}.", "output": "r"} for k in range(4)]
TEXTS = [{"id": k, "text": "t"} for k in range(4)]
PREFERENCES = [{"id": k, "preference": 1.0, "judge": "j"} for k in range(4)]
ALL = (*NAMES, "preference", "win_rate")


def case(name, tmp_path):
    """Questions, answers and options; the questions are rows but for AMBER's folder."""
    if name == "preference":
        return PAIRS, MARGINS, {}
    if name == "win_rate":
        return INSTRUCTIONS, TEXTS, {"verdicts": PREFERENCES}
    return arguments(name, tmp_path)


def written(tmp_path, name, rows):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def truth_rows(questions):
    """CHAIR's ground truth, which is a mapping in the case, as rows."""
    return [{"image_id": image, "objects": objects} for image, objects in questions.items()]


def asked(name, tmp_path, change):
    """Score with the questions changed, as files; AMBER's changed rows are those of its annotations."""
    questions, answers, options = case(name, tmp_path)
    if name == "amber":
        made = load("amber")
        made["annotations"] = change(made["annotations"])
        folder = amber_folder(made, tmp_path / "changed")
        return folder / "annotations.json", lambda: score(name, folder, answers, resamples=10, **options)
    rows = truth_rows(questions) if isinstance(questions, dict) else [dict(row) for row in questions]
    file = written(tmp_path, "questions.jsonl", change(rows))
    return file, lambda: score(name, file, answers, resamples=10, **options)


@pytest.mark.parametrize("name", ALL)
def test_a_question_that_stands_in_two_rows(name, tmp_path):
    def twice(rows):
        return [*rows[:2], rows[0], *rows[2:]]

    file, run = asked(name, tmp_path, twice)
    with pytest.raises(DataError) as err:
        run()
    assert f"{file}, row 3" in str(err.value)
    assert f"{file}, row 1" in str(err.value)


LABELS = {
    "pope": "label", "mme": "answer", "hallusionbench": "gt_answer", "repope": "label", "dash_b": "answer",
    "naturalbench": "Image_0_Question_0",
}  # fmt: skip


@pytest.mark.parametrize("label", ["Maybe", 1.5, True, None, "", ["yes"], {"a": 1}])
@pytest.mark.parametrize("name", LABELS)
def test_a_label_that_is_neither_yes_nor_no(name, label, tmp_path):
    def wrong(rows):
        return [{**row, LABELS[name]: label} if number == 2 else row for number, row in enumerate(rows, 1)]

    file, run = asked(name, tmp_path, wrong)
    with pytest.raises(DataError) as err:
        run()
    assert str(err.value).startswith(f"{file}, row 2: {LABELS[name]} is ")


def test_a_label_of_amber(tmp_path):
    made = load("amber")
    number = next(n for n, row in enumerate(made["annotations"], 1) if row["type"] != "generative")
    file, run = asked(
        "amber", tmp_path, lambda rows: [{**r, "truth": 1} if n == number else r for n, r in enumerate(rows, 1)]
    )
    with pytest.raises(DataError) as err:
        run()
    assert str(err.value) == f"{file}, row {number}: truth is 1; expected yes or no"


NEEDED = {
    "pope": ("question_id", "image", "text", "label"),
    "chair": ("image_id", "objects"),
    "amber": ("id", "type", "truth"),
    "hallusionbench": ("category", "set_id", "visual_input", "question", "gt_answer"),
    "mme": ("category", "image", "question", "answer"),
    "mmhal": ("image_id", "image_src", "image_content", "question", "gt_answer"),
    "object_halbench": ("image_id",),
    "preference": ("chosen",),
    "win_rate": ("prompt",),
    "repope": ("question_id", "image", "text", "label"),
    "dash_b": ("question_id", "object", "answer"),
    "naturalbench": ("Index", "Question_0", "Question_1", "Image_1_Question_0", "Question_Type"),
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in NEEDED for key in NEEDED[name]])
def test_a_question_without_what_it_needs(name, key, tmp_path):
    def without(rows):
        return [{k: v for k, v in row.items() if k != key} if n == 2 else row for n, row in enumerate(rows, 1)]

    file, run = asked(name, tmp_path, without)
    with pytest.raises(DataError) as err:
        run()
    assert f"{file}, row 2" in str(err.value)


@pytest.mark.parametrize(
    "text", ["", " ", None, 7, "Is there a in the image?", "Is there in the image?", "Do you see an?"]
)
def test_a_question_that_names_no_object(text, tmp_path):
    def nothing(rows):
        return [{**row, "text": text} if number == 2 else row for number, row in enumerate(rows, 1)]

    file, run = asked("pope", tmp_path, nothing)
    with pytest.raises(DataError) as err:
        run()
    assert str(err.value).startswith(f"{file}, row 2: ")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("change", ["twice", "unknown"])
def test_an_answer_whose_id_is_wrong(name, change, tmp_path):
    questions, answers, options = case(name, tmp_path)
    row = dict(answers[0]) if change == "twice" else {**answers[0], "id": "nobody"}
    file = written(tmp_path, "answers.jsonl", [*answers, row])
    with pytest.raises(DataError) as err:
        score(name, questions, file, resamples=10, **options)
    assert f"{file}, row {len(answers) + 1}" in str(err.value)
    assert change == "unknown" or f"{file}, row 1" in str(err.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [None, ["yes"]])
def test_an_answer_that_is_no_text(name, text, tmp_path):
    questions, answers, options = case(name, tmp_path)
    file = written(tmp_path, "answers.jsonl", [answers[0], {**answers[1], "text": text}, *answers[2:]])
    with pytest.raises(DataError) as err:
        score(name, questions, file, resamples=10, **options)
    assert str(err.value).startswith(f"{file}, row 2: text is ")


@pytest.mark.parametrize("name", ["mmhal", "hallusionbench", "object_halbench", "win_rate"])
@pytest.mark.parametrize("change", ["twice", "unknown"])
def test_a_verdict_whose_id_is_wrong(name, change, tmp_path):
    questions, answers, options = case(name, tmp_path)
    verdicts = options.pop("verdicts")
    row = dict(verdicts[0]) if change == "twice" else {**verdicts[0], "id": "nobody"}
    file = written(tmp_path, "verdicts.jsonl", [*verdicts, row])
    with pytest.raises(DataError) as err:
        score(name, questions, answers, verdicts=file, resamples=10, **options)
    assert f"{file}, row {len(verdicts) + 1}" in str(err.value)


@pytest.mark.parametrize("name", ["pope", "mmhal", "hallusionbench", "object_halbench", "win_rate"])
def test_rows_that_are_given_as_they_are(name, tmp_path):
    questions, answers, options = case(name, tmp_path)
    with pytest.raises(DataError, match=r"(questions|items), row \d+.* (questions|items), row 1"):
        score(name, [*questions, questions[0]], answers, resamples=10, **options)


def test_the_rows_of_several_splits_have_their_own_file(tmp_path):
    questions, answers, _ = case("pope", tmp_path)
    files = [written(tmp_path, f"coco_pope_{split}.json", questions) for split in ("random", "popular")]
    written(tmp_path, "coco_pope_popular.json", [questions[0], {**questions[1], "label": "Maybe"}])
    with pytest.raises(DataError) as err:
        score("pope", files, answers)
    assert str(err.value) == f"{files[1]}, row 2: label is 'Maybe'; expected 'yes' or 'no'"


def test_lines_of_mme_have_their_file_and_line(tmp_path):
    (tmp_path / "existence.txt").write_text("1.jpg\tIs it a dog?\tYes\n1.jpg\tIs it a cat?\tMaybe\n", encoding="utf-8")
    with pytest.raises(DataError) as err:
        score("mme", tmp_path, [])
    assert str(err.value) == f"{tmp_path / 'existence.txt'}, line 2: answer is 'Maybe'; expected 'yes' or 'no'"


@pytest.mark.parametrize("name", ["pope", "chair", "mmhal", "object_halbench", "win_rate"])
def test_a_file_that_was_cut_ends_the_command_with_its_file_and_line(name, tmp_path, capsys):
    questions, answers, _ = case(name, tmp_path)
    rows = truth_rows(questions) if isinstance(questions, dict) else questions
    file, cut = written(tmp_path, "questions.jsonl", rows), tmp_path / "answers.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in answers)
    cut.write_text(text[:-8], encoding="utf-8")
    assert main(["score", "--benchmark", name, "--questions", str(file), "--answers", str(cut)]) == DataError.exit_code
    assert f"{cut}, line {len(answers)} is not JSON" in " ".join(capsys.readouterr().err.split())


def test_answers_and_no_questions(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="3 answers and no questions: the source of the questions is empty"):
        score("pope", empty, [{"id": k, "text": "yes"} for k in range(3)])
