"""CRPE, MMVP and FINER by hand: their files as they are published, their groups, and what is wrong with a file."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError, DataError
from mmpref.evals import export_answers, load_samples, score
from tests.unit.evals.cases import load

SUFFIX = "Answer with the option's letter from the given choices directly."


def rotations(first, options, truth, *, category="exist", image="coco/val2017/000000000001.jpg", stem="What is here?"):
    """The four rows of one question of CRPE, whose ids begin at ``first``."""
    rows = []
    for shift in range(4):
        turned = [*options[shift:], *options[:shift]]
        listed = [f"{letter}. {text}" for letter, text in zip("ABCD", turned, strict=True)]
        rows.append(
            {
                "question_id": first + shift,
                "image": image,
                "text": "\n".join([stem, *listed, SUFFIX]),
                "correct_option": "ABCD"[turned.index(truth)],
                "category": category,
            }
        )
    return rows


OPTIONS = ["dog", "cat", "car", "tree"]
EXIST = rotations(0, OPTIONS, "dog") + rotations(4, OPTIONS, "car", stem="What else?")
RELATION = rotations(0, ["on", "under", "beside", "in"], "on", category="predicate", image="abnormal_images/1.jpg")


def right(rows):
    return [{"question_id": row["question_id"], "text": row["correct_option"]} for row in rows]


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- CRPE ------------------------------------------------------------------------------------------------------------


def test_a_question_of_crpe_is_right_only_when_it_is_right_in_every_rotation():
    answers = right(EXIST)
    answers[6] = {"question_id": 6, "text": "I would say it is the tree."}
    found = score("crpe", EXIST, answers)
    assert found.metrics["accuracy"] == found.metrics["exist/accuracy"] == 0.5
    assert found.metrics["single_accuracy"] == 7 / 8
    assert [item["group"] for item in found.items] == ["0"] * 4 + ["4"] * 4


def test_sentences_that_answer_crpe_count_for_us_and_not_for_the_script():
    answers = [{"question_id": row["question_id"], "text": f"The answer is {row['correct_option']}."} for row in EXIST]
    assert score("crpe", EXIST, answers).metrics["accuracy"] == 1
    official = score("crpe", EXIST, answers, "official")
    assert official.metrics["accuracy"] == 0
    assert official.n_unparsed == 8


def test_both_files_of_crpe_are_scored_together_though_they_count_alike(tmp_path, capsys):
    exist, relation = jsonl(tmp_path / "crpe_exist.jsonl", EXIST), jsonl(tmp_path / "crpe_relation.jsonl", RELATION)
    first, second = (
        jsonl(tmp_path / "a_exist.jsonl", right(EXIST)),
        jsonl(tmp_path / "a_relation.jsonl", right(RELATION)),
    )
    jsonl(tmp_path / "hub" / "crpe_exist.jsonl", EXIST)
    jsonl(tmp_path / "hub" / "crpe_relation.jsonl", RELATION)
    jsonl(tmp_path / "hub" / "crpe_relation_meta.jsonl", [{"question": "What?", "choices": OPTIONS}])
    for questions in ([exist, relation], [tmp_path / "hub"]):
        command = ["score", "--benchmark", "crpe", "--out", str(tmp_path / "r.json")]
        for file in questions:
            command += ["--questions", str(file)]
        assert main([*command, "--answers", str(second), "--answers", str(first)]) == 0
        metrics = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["metrics"]
        assert metrics["accuracy"] == metrics["exist/accuracy"] == metrics["relation/accuracy"] == 1
        assert metrics["predicate/accuracy"] == 1
    assert [sample.id for sample in load_samples("crpe", [exist, relation])][7:9] == ["exist/7", "relation/0"]
    assert score("crpe", exist, first).metrics["accuracy"] == 1
    capsys.readouterr()


def test_answers_to_one_file_are_no_answers_to_the_other(tmp_path):
    exist, relation = jsonl(tmp_path / "crpe_exist.jsonl", EXIST), jsonl(tmp_path / "crpe_relation.jsonl", RELATION)
    answers = jsonl(tmp_path / "a_relation.jsonl", right(RELATION))
    with pytest.raises(DataError, match="8 of 12 questions have no answer: 'exist/0'"):
        score("crpe", [exist, relation], answers)


def test_answers_named_for_another_part_are_warned_of_or_left_out(tmp_path):
    """The parts count their ids alike, so that bare letters tell nothing."""
    exist = jsonl(tmp_path / "crpe_exist.jsonl", EXIST)
    named = jsonl(tmp_path / "a_relation.jsonl", right(EXIST))
    assert [w.code for w in score("crpe", exist, named, resamples=5).warnings] == ["other_split"]
    shown = [{**row, "prompt": asked["text"]} for row, asked in zip(right(EXIST), EXIST, strict=True)]
    assert score("crpe", exist, jsonl(named, shown), resamples=5).warnings == ()
    jsonl(named, right(RELATION))
    found = score("crpe", exist, [jsonl(tmp_path / "a_exist.jsonl", right(EXIST)), named], resamples=5)
    assert (found.n, found.metrics["accuracy"], found.warnings) == (8, 1, ())
    assert "4 answers to other parts are left out: relation" in found.notes
    unnamed = jsonl(tmp_path / "q" / "questions.jsonl", EXIST)
    assert score("crpe", unnamed, jsonl(named, right(EXIST)), resamples=5).warnings == ()


def test_a_tool_that_asks_about_relations_alone_scores_these_alone():
    questions = EXIST + [{**row, "question_id": 90 + row["question_id"]} for row in RELATION]
    found = score("crpe", questions, right(questions), "lmms_eval")
    assert (found.n, set(found.metrics)) == (
        4,
        {f"{part}single_accuracy" for part in ("", "overall/", "relation/", "predicate/")},
    )
    assert "only the 4 questions about relations, as in the tool" in found.notes
    with pytest.raises(DataError, match="none of these is one"):
        score("crpe", EXIST, right(EXIST), "lmms_eval")


def test_vlmevalkits_free_points_are_told():
    answers = [{"question_id": row["question_id"], "text": "something"} for row in EXIST]
    found = score("crpe", EXIST, answers, "vlmevalkit")
    assert found.metrics["accuracy"] == 1
    assert any("8 answers that begin with no letter of an option are right under this rule" in n for n in found.notes)


def without(rows, *numbers):
    return [row for number, row in enumerate(rows) if number not in numbers]


def changed(rows, number, **values):
    return [{**row, **values} if place == number else row for place, row in enumerate(rows)]


META = [{"question_id": 1, "image": "1.jpg", "question": "What?", "choices": OPTIONS, "category": "exist"}]
BROKEN_CRPE = [
    (changed(EXIST, 2, correct_option="F"), "row 3: the right option is 'F'; the text lists A, B, C, D"),
    (changed(EXIST, 2, correct_option="dog"), "row 3: the right option is 'dog'"),
    (changed(EXIST, 2, correct_option=""), "row 3: correct_option is ''; expected text"),
    (changed(EXIST, 3, question_id=2), "row 4: question_id '2' stands in .*row 3 too"),
    (without(EXIST, 7), "row 5: the question of id '4' has 3 rotations of its options and not 4; 7 rows of category"),
    (
        without(EXIST, 3),
        "row 4: another question than in .*row 1 .id '0'.; the 4 rotations of a question of category exist",
    ),
    (changed(EXIST, 1, image="2.jpg"), "row 2: another question than in .*row 1"),
    (changed(EXIST, 1, correct_option="B"), "row 2: another question than in .*row 1"),
    (changed(EXIST, 1, text="What is here?"), "row 2: the text lists no options such as 'A. dog'"),
    (changed(EXIST, 1, text=None), "row 2: text is None; expected text"),
    ([{k: v for k, v in row.items() if k != "category"} for row in EXIST], "row 1: category is missing"),
    (META, "row 1: a row of a _meta file, where each question stands once"),
]


@pytest.mark.parametrize(("rows", "says"), BROKEN_CRPE)
def test_what_is_wrong_with_a_file_of_crpe_is_named_with_file_and_row(rows, says, tmp_path):
    file = jsonl(tmp_path / "crpe_exist.jsonl", rows)
    with pytest.raises(DataError, match=f"crpe_exist.jsonl, {says}"):
        load_samples("crpe", file)
    with pytest.raises(DataError, match=f"questions, {says}"):
        load_samples("crpe", rows)


def test_a_folder_without_files_of_crpe_and_two_files_of_one_part_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no .jsonl, .json, .parquet, .tsv, .csv, .xlsx file in this folder is named after a part"
    ):
        load_samples("crpe", tmp_path)
    files = [jsonl(tmp_path / name / "crpe_exist.jsonl", EXIST) for name in "ab"]
    with pytest.raises(DataError, match=r"are of one part .exist.; give one file of each part"):
        load_samples("crpe", files)


# --- MMVP ------------------------------------------------------------------------------------------------------------

WINGS = "Are the butterfly's wings, seen from here, closer to being open or closed?"
MMVP = [
    {"Index": 1, "Question": WINGS, "Options": "(a) Open (b) Closed", "Correct Answer": "(a)"},
    {"Index": 2, "Question": WINGS, "Options": "(a) Open (b) Closed", "Correct Answer": "(b)"},
    {"Index": 3, "Question": "Is it day?", "Options": "(a) Yes (b) No", "Correct Answer": "(b)"},
    {"Index": 4, "Question": "Is it day?", "Options": "(a) Yes (b) No", "Correct Answer": "(a)"},
]
SAID = ["The wings are open.", "(b)", "No, it is night.", "Yes"]


def test_the_files_of_mmvp_are_read_as_they_are(tmp_path, capsys):
    questions = table(tmp_path / "Questions.csv", MMVP)
    rows = [
        {"question_id": row["Index"], "prompt": f"{row['Question']} {row['Options']}", "answer": row["Correct Answer"],
         "response": said, "answer_id": "x", "model_id": "m"}
        for row, said in zip(MMVP, SAID, strict=True)
    ]  # fmt: skip
    answers = jsonl(tmp_path / "answer.jsonl", rows)
    given = ["--benchmark", "mmvp", "--questions", str(questions), "--answers", str(answers)]
    assert main(["score", *given, "--out", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["metrics"]["pair_accuracy"] == 1
    back = tmp_path / "back.jsonl"
    assert main(["export", *given, "--to", "official", "--out", str(back)]) == 0
    kept = ("question_id", "prompt", "answer", "response")
    written = [json.loads(line) for line in back.read_text(encoding="utf-8").splitlines()]
    assert written == [{key: row[key] for key in kept} for row in rows]
    assert load_samples("mmvp", tmp_path) == load_samples("mmvp", questions)  # the folder of the hub
    first = load_samples("mmvp", questions)[0]
    assert (first.prompt[0].text, first.images[0].path) == (f"{WINGS} (a) Open (b) Closed", "MMVP Images/1.jpg")
    capsys.readouterr()


def test_vlmevalkits_table_of_mmvp_asks_the_same(tmp_path):
    rows = [
        {"index": n, "question": row["Question"], "A": str(row["Options"])[4:].split(" (b) ")[0],
         "B": str(row["Options"]).split(" (b) ")[1], "answer": str(row["Correct Answer"])[1].upper()}
        for n, row in enumerate(MMVP, 1)
    ]  # fmt: skip
    file = table(tmp_path / "MMVP.tsv", rows, "\t")
    assert [(s.id, s.target, s.prompt) for s in load_samples("mmvp", file)] == [
        (s.id, s.target, s.prompt) for s in load_samples("mmvp", MMVP)
    ]


def test_the_judge_of_mmvp_decides_under_official_alone():
    answers = [{"id": row["Index"], "text": said} for row, said in zip(MMVP, SAID, strict=True)]
    verdicts = [
        {"id": n, "verdict": verdict, "judge": "j"} for n, verdict in enumerate(["correct"] * 3 + ["unclear"], 1)
    ]
    assert score("mmvp", MMVP, answers, "official", verdicts=verdicts).metrics["pair_accuracy"] == 0.5
    assert score("mmvp", MMVP, answers, verdicts=verdicts).metrics["pair_accuracy"] == 1
    with pytest.raises(ConfigError, match=r"is made with its authors' verdicts, .* mmpref judge --benchmark mmvp"):
        score("mmvp", MMVP, answers, "official")


TUSKS = [
    {"Index": n, "Question": "Does the elephant have long or short tusks?", "Options": "(a) Long (b) Short",
     "Correct Answer": label}
    for n, label in ((99, "(a)"), (100, "(b)"))
]  # fmt: skip


def test_labels_that_are_known_to_be_wrong_are_told_and_corrected_when_asked():
    answers = [{"id": 99, "text": "(b)"}, {"id": 100, "text": "(a)"}]
    given, corrected = score("mmvp", TUSKS, answers), score("mmvp", TUSKS, answers, labels="corrected")
    assert (given.metrics["pair_accuracy"], corrected.metrics["pair_accuracy"]) == (0, 1)
    assert any("labels of questions 99, 100 as in the authors' file" in note for note in given.notes)
    assert any("labels of questions 99, 100 corrected" in note for note in corrected.notes)
    lmms_eval = [{**row, "Correct Answer": label} for row, label in zip(TUSKS, ("(b)", "(a)"), strict=True)]
    for labels in ("given", "corrected"):
        found = score("mmvp", lmms_eval, answers, labels=labels)
        assert found.metrics["pair_accuracy"] == 1
        assert not any("labels of questions" in note for note in found.notes)


BROKEN_MMVP = [
    (changed(MMVP, 1, **{"Correct Answer": "(c)"}), "row 2: the right answer is 'C'; expected .a. or .b."),
    (changed(MMVP, 1, Options="Open or closed"), "row 2: the options are 'Open or closed'; expected two, such as"),
    (changed(MMVP, 1, Options="(a) Open (b) Closed (c) Both"), "row 2: the options are .*; expected two"),
    (changed(MMVP, 1, Index=1), "row 2: Index '1' stands in .*row 1 too"),
    (changed(MMVP, 1, Index="x"), "row 2: Index is 'x'; questions are numbered from 1"),
    (without(MMVP, 3), "row 3: question 3 is a pair with question 4, which is not in the file"),
    (without(MMVP, 0), "row 1: question 2 is a pair with question 1, which is not in the file"),
    (changed(MMVP, 1, Question="Is it day?"), "row 2: question 2 asks 'Is it day.' and question 1, with which it is a"),
    (changed(MMVP, 1, Question=""), "row 2: Question is ''; expected text"),
]


@pytest.mark.parametrize(("rows", "says"), BROKEN_MMVP)
def test_what_is_wrong_with_a_file_of_mmvp_is_named_with_file_and_row(rows, says, tmp_path):
    with pytest.raises(DataError, match=f"Questions.jsonl, {says}"):
        load_samples("mmvp", jsonl(tmp_path / "Questions.jsonl", rows))


# --- FINER -----------------------------------------------------------------------------------------------------------


def pair(image, kind="multi_obj"):
    choices = {f"choice{n}": f"No, but I can see choice {n}." for n in range(1, 6)}
    return [
        {
            "image": image,
            "qtype": f"{kind}_{side}",
            "question": f"Can you see the {side} one?",
            **choices,
            "gt_index": n,
        }
        for n, side in enumerate(("pos", "neg"))
    ]


FINER = [*pair("1.jpg"), *pair("2.jpg")]


def test_the_tables_of_finer_and_what_its_script_writes_are_read_as_they_are(tmp_path):
    files = [table(tmp_path / f"{kind}.csv", pair("1.jpg", kind)) for kind in ("multi_obj", "wh")]
    assert [sample.id for sample in load_samples("finer", files)] == ["multi_obj/1", "multi_obj/2", "wh/1", "wh/2"]
    written = [
        table(
            tmp_path / "out" / f"preds_{kind}.csv",
            [{**row, "pred_idx": said} for row, said in zip(pair("1.jpg", kind), both, strict=True)],
        )
        for kind, both in (("multi_obj", (0, 1)), ("wh", (0, -1)))
    ]
    found = score("finer", files, written, "official")
    assert (found.metrics["paired_accuracy"], found.metrics["multi_obj/paired_accuracy"]) == (0.5, 1)
    assert (found.metrics["positive_accuracy"], found.metrics["negative_accuracy"]) == (1, 0.5)
    assert found.n_unparsed == 1
    assert found.metrics["paired_accuracy"] == score("finer", tmp_path, written, "official").metrics["paired_accuracy"]
    odd = table(tmp_path / "odd.csv", [{**row, "pred_idx": 7} for row in pair("1.jpg", "wh")])
    with pytest.raises(
        DataError, match=r"odd\.csv, row 1: pred_idx is '7'; expected the number of a choice, from 0 to 4"
    ):
        score("finer", files[1], odd)


def test_the_first_letter_of_a_sentence_is_the_scripts_answer_and_not_ours():
    answers = [{"id": n, "text": f"The answer is {letter}"} for n, letter in enumerate("ABAB", 1)]
    assert score("finer", FINER, answers).metrics["paired_accuracy"] == 1
    assert [item["read"] for item in score("finer", FINER, answers, "official").items] == ["E"] * 4


BROKEN_FINER = [
    (changed(FINER, 1, gt_index=5), "row 2: gt_index is 5; expected the number of the right choice, from 0 to 4"),
    (changed(FINER, 1, gt_index=None), "row 2: gt_index is None"),
    (changed(FINER, 1, qtype="multi_obj"), "row 2: qtype is 'multi_obj'; expected one that ends in _pos or _neg"),
    (changed(FINER, 1, qtype="multi_obj_pos"), "row 2: it and .*row 1 are both positive"),
    (changed(FINER, 1, image="9.jpg"), "row 2: the image is '9.jpg', and that of .*row 1, with which it is a pair"),
    (changed(FINER, 1, qtype="wh_neg"), "row 2: the type of question is 'wh'"),
    (without(FINER, 3), "row 3: the last row has no second of its pair"),
    (changed(FINER, 1, choice5=""), "row 2: choice5 is ''; expected text"),
]


@pytest.mark.parametrize(("rows", "says"), BROKEN_FINER)
def test_what_is_wrong_with_a_file_of_finer_is_named_with_file_and_row(rows, says, tmp_path):
    with pytest.raises(DataError, match=f"multi_obj.jsonl, {says}"):
        load_samples("finer", jsonl(tmp_path / "multi_obj.jsonl", rows))


# --- all three -------------------------------------------------------------------------------------------------------

SHARES = {"crpe": "accuracy", "mmvp": "pair_accuracy", "finer": "paired_accuracy"}


@pytest.mark.parametrize("name", SHARES)
def test_a_group_that_was_asked_in_part_is_in_no_share_of_groups(name, tmp_path):
    """As with --limit: three questions are asked of four, or of two pairs."""
    from mmpref.evals.benchmarks import BENCHMARKS
    from mmpref.evals.scoring import score_samples
    from mmpref.records import Answer

    rows = {"crpe": EXIST, "mmvp": MMVP, "finer": FINER}[name]
    samples = load_samples(name, rows)[: 5 if name == "crpe" else 3]
    options = dict(BENCHMARKS[name].options)
    answers = [Answer(id=sample.id, text=sample.target) for sample in samples]
    found = score_samples(BENCHMARKS[name], samples, answers, "mmpref", options, resamples=5)
    assert found.metrics[SHARES[name]] == 1
    assert found.metrics["single_accuracy"] == 1
    assert any("1 of 2" in note and "were asked in part" in note for note in found.notes)
    wrong = [*answers[:-1], Answer(id=samples[-1].id, text="")]
    found = score_samples(BENCHMARKS[name], samples, wrong, "mmpref", options, resamples=5)
    assert found.metrics[SHARES[name]] == 1
    assert found.metrics["single_accuracy"] < 1


@pytest.mark.parametrize("name", SHARES)
def test_the_right_option_in_words_is_right_for_us(name):
    case = load(name)
    answers = []
    questions = case["questions"][:120]
    for number, sample in enumerate(load_samples(name, questions)):
        text = sample.meta["options"][sample.target]
        said = [text, f"({sample.target}) {text}", f"The answer is {sample.target.lower()}.", f"**{sample.target}**"]
        answers.append({"id": sample.id, "text": said[number % 4]})
    found = score(name, questions, answers, resamples=5)
    assert (found.metrics[SHARES[name]], found.n_unparsed) == (1, 0)


@pytest.mark.parametrize("name", ["crpe", "mmvp"])
def test_what_is_exported_for_vlmevalkit_scores_the_same_there(name, tmp_path):
    questions, answers = (load(name)[key][:80] for key in ("questions", "answers"))
    out = tmp_path / "t.tsv"
    export_answers(name, questions, answers, "vlmevalkit", out)
    options = {"resamples": 5}
    before = score(name, questions, answers, "vlmevalkit", **options)
    assert score(name, questions, out, "vlmevalkit", **options).metrics == before.metrics
    assert score(name, out, out, "vlmevalkit", **options).metrics == before.metrics


def test_the_parquet_files_of_the_hub_have_the_images_in_them(tmp_path):
    def inside(rows, of=lambda row: row["image"]):
        return [{**row, "image": {"bytes": of(row).encode(), "path": None}} for row in rows]

    def shard(name, rows):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        return tmp_path / name

    crpe = shard("crpe/test-00000-of-00001.parquet", inside(RELATION))
    for source in (crpe, crpe.parent):
        samples = load_samples("crpe", source)
        assert [sample.images[0].data for sample in samples] == [b"abnormal_images/1.jpg"] * 4
        assert score("crpe", source, right(RELATION)).metrics["accuracy"] == 1
    mmvp = shard("mmvp/train.parquet", inside(MMVP, lambda row: str(row["Index"])))
    assert [sample.images[0].data for sample in load_samples("mmvp", mmvp)] == [b"1", b"2", b"3", b"4"]
    for number, rows in enumerate((FINER[:2], FINER[2:])):
        named = [{**row, "image_filename": row["image"]} for row in rows]
        shard(f"finer/multi_obj-0000{number}-of-00002.parquet", inside(named))
    samples = load_samples("finer", tmp_path / "finer")
    assert [(sample.id, sample.meta["image"], sample.images[0].data) for sample in samples] == [
        ("1", "1.jpg", b"1.jpg"), ("2", "1.jpg", b"1.jpg"), ("3", "2.jpg", b"2.jpg"), ("4", "2.jpg", b"2.jpg"),
    ]  # fmt: skip
