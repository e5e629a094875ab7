"""What an answer file may be made of: tables of text, a folder of files, and the answers of one model, one each."""

import csv
import json

import pytest

from mmpref.cli.main import main
from mmpref.errors import DataError
from mmpref.evals import BENCHMARKS, score
from mmpref.evals.files.answer_readers import read_rows
from mmpref.files.tables import read_table
from tests.unit.evals.cases import NAMES, arguments

POPE = [{"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {n}?", "label": "yes"} for n in range(1, 5)]


def lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def table(file, rows, separator=",", encoding="utf-8"):
    with file.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return file


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8-sig")])
def test_csv_files_are_read_as_questions_and_answers(tmp_path, capsys, separator, encoding):
    texts = ["Yes, there; is", 'A "yes"', "Yes\nindeed", "yes\tsir"]
    answers = [{"question_id": n, "text": text} for n, text in enumerate(texts, 1)]
    questions = table(tmp_path / "q.csv", POPE, separator, encoding)
    file = table(tmp_path / "a.csv", answers, separator, encoding)
    found = score("pope", questions, file, resamples=10)
    assert [item["text"] for item in found.items] == texts
    assert main(["score", "--benchmark", "pope", "--questions", str(questions), "--answers", str(file)]) == 0


def test_an_empty_cell_of_the_answers_is_an_empty_answer(tmp_path):
    rows = [{"question_id": n, "question": "", "answer": "" if n == 2 else "Yes"} for n in range(1, 5)]
    found = score("pope", POPE, table(tmp_path / "a.csv", rows), resamples=10)
    assert [item["text"] for item in found.items] == ["Yes", "", "Yes", "Yes"]
    rows = [{"question_id": n, "text": "" if n == 2 else "Yes", "response": ""} for n in range(1, 5)]
    found = score("pope", POPE, table(tmp_path / "a.csv", rows), resamples=10)
    assert [item["text"] for item in found.items] == ["Yes", "", "Yes", "Yes"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,text\n1,Yes, there is\n", r"line 2: 3 cells, and the first line has 2 names \(id, text\)"),
        ("id,text\n1\n", "line 2: 1 cells"),
        ("id,text,text\n1,Yes,No\n", "the first line has 'text' twice"),
    ],
)
@pytest.mark.parametrize("end", ["csv", "tsv"])
def test_a_table_with_a_cell_too_many_is_refused(tmp_path, text, says, end):
    """The rest of an answer was dropped with the cells that have no name."""
    file = tmp_path / f"a.{end}"
    file.write_text(text if end == "csv" else text.replace(",", "\t"), encoding="utf-8")
    with pytest.raises(DataError, match=says):
        read_table(file)


@pytest.mark.parametrize("content", ["id | text\n1 | Yes\n", "<html></html>", "Yes\nNo\n", "---\nid: 1\n"])
def test_what_is_no_json_says_what_is_read(tmp_path, content):
    file = tmp_path / "a.txt"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"a\.txt is no JSON: line 1 is .*; read are JSON lines, .* \(\.tsv, \.csv, \.x"
    ):
        score("pope", POPE, file)
    with pytest.raises(DataError, match="is no JSON"):
        score("pope", file, [])


def test_one_file_of_mme_is_asked_for_as_its_folder(tmp_path):
    questions, _, _ = arguments("mme", tmp_path)
    row = questions[0]
    file = tmp_path / f"{row['category']}.txt"
    file.write_text("\t".join((row["image"], row["question"], row["answer"], "Yes")) + "\n", encoding="utf-8")
    for given in ((file, []), (questions, file)):
        with pytest.raises(DataError, match=r"is a file of one subtask; give the folder that holds it"):
            score("mme", *given)


def test_an_error_in_mmes_folder_names_the_file_and_the_line(tmp_path):
    questions, _, _ = arguments("mme", tmp_path)
    for row in questions:
        with (tmp_path / f"{row['category']}.txt").open("a", encoding="utf-8") as stream:
            stream.write("\t".join((row["image"], row["question"], row["answer"], "Yes")) + "\n")
    file = tmp_path / f"{questions[-1]['category']}.txt"
    good = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([*good[:-1], "nobody.jpg\tWhat is it?\tYes\tYes\n"]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"{file.name}, line {len(good)}: fits no question"):
        score("mme", questions, tmp_path, resamples=10)


# --- one model, one answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model_id", "model", "model_name"])
@pytest.mark.parametrize("name", NAMES)
def test_answers_of_two_models_are_refused(name, key, tmp_path):
    """1,500 rows of each were one number."""
    questions, given, options = arguments(name, tmp_path)
    rows = [{**row, key: "A" if n else "B"} for n, row in enumerate(given)]
    with pytest.raises(
        DataError, match=rf"answers of 2 models: {key} is 'A' \({len(rows) - 1:,} rows\), 'B' \(1 rows\)"
    ):
        score(name, questions, rows, next(iter(BENCHMARKS[name].protocols)), resamples=10, **options)


def test_two_models_in_files_of_several_splits_are_refused(tmp_path):
    splits = {"random": POPE[:2], "popular": POPE[2:]}
    answers = {
        split: lines(
            tmp_path / f"{split}.jsonl", [{"id": row["question_id"], "text": "Yes", "model_id": split} for row in part]
        )
        for split, part in splits.items()
    }
    with pytest.raises(DataError, match=r"popular\.jsonl: answers of 2 models"):
        score("pope", splits, answers)
    with pytest.raises(DataError, match="answers of 2 models"):
        score("pope", splits, answers, "official", pairing="order")


@pytest.mark.parametrize("end", ["tsv", "csv", "jsonl", "json"])
def test_two_models_in_every_kind_of_file(tmp_path, end):
    rows = [{"question_id": n, "text": "Yes", "model_id": "AB"[n % 2]} for n in range(1, 5)]
    file = tmp_path / f"a.{end}"
    if end in ("tsv", "csv"):
        table(file, rows, "\t" if end == "tsv" else ",")
    else:
        file.write_text(json.dumps(rows) if end == "json" else "\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"'B' \(2 rows\), 'A' \(2 rows\)"):
        score("pope", POPE, file)


def logged(answers, key="filtered_resps"):
    told = {key: answers} if key == "filtered_resps" else {"resps": answers}
    return [
        {
            "doc_id": n,
            "doc": {"question_id": row["question_id"], "question": row["text"], "image": row["image"]},
            **told,
        }
        for n, row in enumerate(POPE)
    ]


@pytest.mark.parametrize(
    ("key", "answers", "says"),
    [
        ("filtered_resps", ["yes", "no"], r"row 1: filtered_resps has 2 different answers, 'yes' and 'no'"),
        ("filtered_resps", [["yes", "no"]], "2 different answers"),
        ("resps", [["yes", "yes", "no"]], "resps has 2 different answers"),
        ("filtered_resps", [[-1.5, False]], r"filtered_resps has -1\.5; expected what the model wrote"),
    ],
)
def test_several_samples_of_a_question_in_a_log_are_refused(key, answers, says):
    """The first of them was taken."""
    with pytest.raises(DataError, match=says):
        read_rows(logged(answers, key))


@pytest.mark.parametrize(
    ("key", "answers"),
    [("filtered_resps", ["yes"]), ("filtered_resps", "yes"), ("filtered_resps", ["yes", "yes"]), ("resps", [["yes"]])],
)
def test_one_answer_in_a_log_is_read(key, answers):
    assert score("pope", POPE, logged(answers, key), resamples=10).metrics["accuracy"] == 1
