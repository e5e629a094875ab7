"""Answers move to other tools and back without a change, and what other tools write is read."""

import json
import random

import pytest

from mmpref.errors import ConfigError, DataError
from mmpref.evals import evaluate, export_answers, load_samples, score, write_items
from mmpref.files.tables import read_table, write_table
from mmpref.generation import ScriptedAnswerer
from tests.tiers import checkerboard
from tests.unit.evals.cases import NAMES, arguments, load

ROUND_TRIPS = [
    *(
        (*case.values, "jsonl") if not case.marks else pytest.param(*case.values, "jsonl", marks=case.marks)
        for case in checkerboard(NAMES, ("jsonl", "llava", "lmms_eval"))
    ),
    *(
        (name, "official", "json")
        for name in ("chair", "amber", "hallusionbench", "mmhal", "object_halbench", "dash_b")
    ),
    *((name, "official", "jsonl") for name in ("crpe", "mmvp")),
    *((name, "vlmevalkit", end) for name in ("pope", "mme", "naturalbench", "crpe", "mmvp") for end in ("tsv", "xlsx")),
]


def as_map(answers):
    return {str(answer["id"]): answer["text"] for answer in answers}


@pytest.mark.parametrize(("name", "to", "end"), ROUND_TRIPS)
def test_exported_answers_score_the_same(name, to, end, tmp_path):
    questions, answers, options = arguments(name, tmp_path)
    out = tmp_path / f"answers.{end}"
    assert export_answers(name, questions, answers, to, out, model="m").num_rows == len(answers)
    before = score(name, questions, answers, resamples=20, **options)
    after = score(name, questions, out, resamples=20, **options)
    assert after == before


@pytest.mark.parametrize(("name", "end"), [("amber", "tsv"), ("hallusionbench", "xlsx")])
def test_a_table_for_vlmevalkit_holds_only_what_the_tool_asks_and_the_rest_is_named(name, end, tmp_path):
    questions, answers, _ = arguments(name, tmp_path)
    out = tmp_path / f"answers.{end}"
    written = export_answers(name, questions, answers, "vlmevalkit", out)
    samples = {sample.id: sample for sample in load_samples(name, questions)}
    unasked = {"amber": lambda s: s.meta["dimension"] == "generative", "hallusionbench": lambda s: not s.images}[name]
    assert set(written.left_out) == {key for key in as_map(answers) if unasked(samples[key])}
    assert written.left_out
    assert written.num_rows == len(answers) - len(written.left_out)
    assert "VLMEvalKit has only" in written.why
    alone = [answer for answer in answers if str(answer["id"]) in written.left_out]
    with pytest.raises(DataError, match=r"nothing to write for vlmevalkit: VLMEvalKit has only .* none of the"):
        export_answers(name, questions, alone, "vlmevalkit", tmp_path / f"none.{end}")
    before = score(name, questions, answers, "vlmevalkit", resamples=20)
    after = score(name, questions, out, "vlmevalkit", resamples=20)
    assert (after.metrics, after.n) == (before.metrics, before.n)


def test_the_folder_of_mme_is_written_and_read(tmp_path):
    questions, answers, _ = arguments("mme", tmp_path)
    export_answers("mme", questions, answers, "official", tmp_path / "results")
    found = score("mme", tmp_path / "results", tmp_path / "results", "official", resamples=20)
    assert found.metrics == score("mme", questions, answers, "official", resamples=20).metrics
    with pytest.raises(DataError, match="3 columns; expected image, question, label and answer"):
        score("mme", tmp_path / "results", unanswered(tmp_path / "results", tmp_path / "empty"))


def unanswered(source, target):
    target.mkdir()
    for file in source.glob("*.txt"):
        lines = [line.rsplit("\t", 1)[0] for line in file.read_text(encoding="utf-8").splitlines()]
        (target / file.name).write_text("\n".join(lines), encoding="utf-8")
    return target


# --- what the tools themselves write ---------------------------------------------------------------------------------


def pope_rows():
    case = load("pope")
    return case["questions"], as_map(case["answers"])


def check_pope(questions, answers_file, texts):
    wanted = score("pope", questions, [{"id": name, "text": text} for name, text in texts.items()], resamples=20)
    assert score("pope", questions, answers_file, resamples=20) == wanted


def test_a_log_of_lmms_eval_with_documents(tmp_path):
    """Older versions keep the document and wrap the answer in lists; the ids of the document count."""
    questions, texts = pope_rows()
    file = tmp_path / "samples.jsonl"
    rows = [
        {
            "doc_id": number,
            "doc": {
                "id": str(number),
                "question_id": str(q["question_id"]),
                "question": q["text"],
                "answer": q["label"],
                "image_source": q["image"].removesuffix(".jpg"),
                "category": "random",
            },
            "target": q["label"],
            "resps": [[texts[str(q["question_id"])]]],
            "filtered_resps": [texts[str(q["question_id"])]],
        }
        for number, q in enumerate(questions)
    ]
    random.Random(0).shuffle(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    check_pope(questions, file, texts)


def test_a_log_of_lmms_eval_without_documents(tmp_path):
    """The newest version leaves the document out; ids stand in what each metric got."""
    questions, texts = pope_rows()
    file = tmp_path / "samples.jsonl"
    rows = [
        {
            "doc_id": number,
            "target": q["label"],
            "filtered_resps": texts[str(q["question_id"])],
            "input": q["text"] + "\nAnswer the question using a single word or phrase.",
            "pope_accuracy": {
                "question_id": str(q["question_id"]),
                "score": 0.0,
                "prediction": "x",
                "ground_truth": "no",
            },
        }
        for number, q in enumerate(questions)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    check_pope(questions, file, texts)


def test_a_log_of_all_splits_need_not_name_them():
    """The splits ask about the same image under one number; where they ask the same, any of them will do."""
    same = {"question_id": 1, "image": "7.jpg", "text": "Is there a dog in the image?", "label": "yes"}
    splits = {
        "random": [same, {"question_id": 2, "image": "7.jpg", "text": "Is there a cat in the image?", "label": "no"}],
        "popular": [same, {"question_id": 2, "image": "7.jpg", "text": "Is there a cow in the image?", "label": "no"}],
    }
    asked = [("dog", 1, "Yes"), ("cow", 2, "Yes"), ("dog", 1, "No"), ("cat", 2, "No")]
    rows = [
        {
            "doc_id": number,
            "filtered_resps": text,
            "input": f"Is there a {name} in the image?\nAnswer the question using a single word or phrase.",
            "pope_accuracy": {"question_id": str(own), "score": 0.0},
        }
        for number, (name, own, text) in enumerate(asked)
    ]
    found = score("pope", splits, rows, resamples=20)
    assert {item["id"]: item["text"] for item in found.items} == {
        "random/1": "Yes",
        "random/2": "No",
        "popular/1": "No",
        "popular/2": "Yes",
    }


def test_one_row_of_vlmevalkit_answers_the_question_in_every_split(tmp_path):
    """Its index has nothing to do with our ids: rows are matched by question and image, in all splits that ask."""
    row = {"question_id": 1, "image": "COCO_7.jpg", "text": "Is there a dog in the image?", "label": "yes"}
    other = {"question_id": 2, "image": "COCO_7.jpg", "text": "Is there a cat in the image?", "label": "no"}
    splits = {"random": [row, other], "popular": [row, {**other, "text": "Is there a cow in the image?"}]}
    table = [("dog", "random,popular", "Yes"), ("cat", "random", "No"), ("cow", "popular", "Yes")]
    file = tmp_path / "model_POPE.xlsx"
    write_table(
        file,
        [
            {
                "index": 2 - number,
                "question": f"Is there a {name} in the image?",
                "answer": "Yes",
                "category": category,
                "image_path": "COCO_7.jpg",
                "prediction": text,
            }
            for number, (name, category, text) in enumerate(table)
        ],
    )
    found = score("pope", splits, file, "vlmevalkit", resamples=20)
    assert {item["id"]: item["read"] for item in found.items} == {
        "random/1": "yes",
        "random/2": "no",
        "popular/1": "yes",
        "popular/2": "yes",
    }


def test_a_row_that_fits_no_question_is_named(tmp_path):
    file = tmp_path / "a.tsv"
    write_table(file, [{"index": 0, "question": "Is there a yak?", "answer": "No", "prediction": "No"}])
    with pytest.raises(DataError, match=r"a\.tsv, row 1: fits no question that was asked: .*yak"):
        score("pope", [{"question_id": 0, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}], file)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["hallusionbench", "mmhal", "mme"])
def test_questions_without_ids_can_be_numbered(name, first, tmp_path):
    questions, answers, options = arguments(name, tmp_path)
    ids = [sample.id for sample in load_samples(name, questions)]
    texts = as_map(answers)
    numbered = [{"id": number, "text": texts[name]} for number, name in enumerate(ids, first)]
    assert score(name, questions, numbered, resamples=20, **options) == score(
        name, questions, answers, resamples=20, **options
    )


# --- tables ----------------------------------------------------------------------------------------------------------

ODD = ["=yes", "=1+1", "a\nb", 'say "no"', "tab\there", "", "naïve ＮＯ 没有", "'", "None"]


@pytest.mark.parametrize("end", ["tsv", "xlsx"])
def test_odd_answers_come_back_from_a_table_as_they_were(end, tmp_path):
    questions = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {n}?", "label": "yes"} for n in range(len(ODD))
    ]
    answers = [{"id": n, "text": text} for n, text in enumerate(ODD)]
    export_answers("pope", questions, answers, "vlmevalkit", tmp_path / f"t.{end}")
    found = score("pope", questions, tmp_path / f"t.{end}", resamples=20)
    assert [item["text"] for item in found.items] == ODD
    assert read_table(tmp_path / f"t.{end}")[0]["prediction"] == "=yes"


def test_a_control_character_does_not_fit_in_xlsx(tmp_path):
    with pytest.raises(DataError, match=r"row 1: has a control character.*use .tsv"):
        write_table(tmp_path / "t.xlsx", [{"index": 1, "prediction": "no\x07"}])


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"no zip at all")
    with pytest.raises(DataError, match=r"t\.xlsx cannot be read as a table"):
        score("pope", [], tmp_path / "t.xlsx")


def test_without_openpyxl_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    (tmp_path / "t.xlsx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pip install 'mmpref\[tables\]', or save the table as .tsv"):
        score("pope", [], tmp_path / "t.xlsx")


# --- refusals and open instructions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        (
            "chair",
            "vlmevalkit",
            "no vlmevalkit layout for chair; it exists for pope, mme, amber, hallusionbench, naturalbench",
        ),
        ("pope", "alpaca_eval", "no alpaca_eval layout for pope; it exists for win_rate"),
        ("pope", "lmms-eval", "did you mean 'lmms_eval'"),
    ],
)
def test_a_layout_that_does_not_exist_is_refused(name, to, message, tmp_path):
    questions, answers, _ = arguments(name, tmp_path)
    with pytest.raises(ConfigError, match=message):
        export_answers(name, questions, answers, to, tmp_path / "out.json")


def test_open_instructions_are_written_as_their_judges_want_them(tmp_path):
    questions = [
        {"uid": "u1", "category": "hard", "prompt": "Write a haiku."},
        {"uid": "u2", "category": "hard", "turns": [{"content": "Say hi."}]},
        {"key": 7, "prompt": "No commas."},
        {"instruction": "Why?", "dataset": "koala", "output": "Because."},
    ]
    answers = [{"id": name, "text": f"text {name}"} for name in ("u1", "u2", "7", "3")]
    out = tmp_path / "out.json"
    export_answers("win_rate", questions, answers, "alpaca_eval", out, model="m")
    assert json.loads(out.read_text())[3] == {
        "dataset": "koala",
        "instruction": "Why?",
        "output": "text 3",
        "generator": "m",
    }
    export_answers("win_rate", questions, answers, "arena_hard", out, model="m")
    row = json.loads(out.read_text().splitlines()[1])
    assert (row["uid"], row["model"]) == ("u2", "m")
    assert row["messages"] == [
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": {"answer": "text u2"}},
    ]
    export_answers("win_rate", questions, answers, "ifeval", out)
    assert json.loads(out.read_text().splitlines()[2]) == {"prompt": "No commas.", "response": "text 7"}


OPEN = [
    {"uid": "u1", "prompt": "Write a haiku.\n\nNo  title.", "output": "r"},
    {"uid": "u2", "prompt": "Say hi.", "output": "r"},
]


@pytest.mark.parametrize(("to", "end"), [("alpaca_eval", "json"), ("arena_hard", "jsonl"), ("ifeval", "jsonl")])
def test_answers_to_open_instructions_come_back_from_their_judges_formats(to, end, tmp_path):
    answers = [{"id": "u1", "text": "An old pond\r\n\u2028"}, {"id": "u2", "text": ""}]
    there, back = tmp_path / f"there.{end}", tmp_path / "back.jsonl"
    export_answers("win_rate", OPEN, answers, to, there)
    assert export_answers("win_rate", OPEN, there, "jsonl", back).num_rows == 2
    assert [json.loads(line) for line in back.read_text(encoding="utf-8").split("\n") if line] == answers
    with pytest.raises(DataError, match=r"0 questions have the instruction|have an id that no question has"):
        export_answers("win_rate", [{"uid": "u9", "prompt": "Another."}], there, "jsonl", back)


def asked(number, thing):
    return {
        "question_id": number,
        "image": f"{number}.jpg",
        "text": f"Is there a {thing} in the image?",
        "label": "yes",
    }


def llava(number, prompt):
    return {"question_id": number, "prompt": prompt, "text": "Yes", "model_id": "m"}


def test_answers_to_another_split_are_known_by_the_prompts_they_show():
    """POPE's splits share their ids and the half of their questions whose answer is yes."""
    questions = [asked(1, "dog"), asked(2, "cat")]
    same = [llava(1, "Is there a dog in the image?\nAnswer with one word."), llava(2, "is there a cat in the image?")]
    assert score("pope", questions, same).metrics["accuracy"] == 1
    other = [same[0], llava(2, "Is there a bench in the image?")]
    with pytest.raises(
        DataError, match=r"1 of 2 rows show another question .*row 2 \(id '2'\) shows 'Is there a bench"
    ):
        score("pope", questions, other)


def test_questions_put_in_other_words_are_matched_by_id():
    questions = [asked(1, "dog"), asked(2, "cat")]
    answers = [llava(1, "Do you see a dog? Say yes or no."), llava(2, "Do you see a cat? Say yes or no.")]
    assert score("pope", questions, answers).metrics["accuracy"] == 1


def pope_folder(out, questions):
    evaluate(
        "m", "pope", questions=questions, images_root=None, out=out,
        answerer=ScriptedAnswerer(lambda sample: "Yes"),
    )  # fmt: skip
    return out / "answers.jsonl"


def test_our_own_answers_know_what_they_were_asked(tmp_path):
    """Rows of id and text cannot tell the split; the file that stands beside them can."""
    questions = [asked(1, "dog"), asked(2, "cat")]
    file = pope_folder(tmp_path / "out", questions)
    assert score("pope", questions, file).metrics["accuracy"] == 1
    assert score("pope", questions, file, prompt_suffix=" Answer with one word.").metrics["accuracy"] == 1
    for others, wrong in (([asked(1, "dog"), asked(2, "bench")], 1), ([asked(1, "cup"), asked(2, "bench")], 2)):
        with pytest.raises(DataError, match=rf"answers\.jsonl: {wrong} of 2 rows show another question"):
            score("pope", others, file)
        with pytest.raises(DataError, match="another question"):
            export_answers("pope", others, file, "llava", tmp_path / "llava.jsonl")
    for damaged in ("{}\n", "no json", '{"id": "1", "question": 7}\n', ""):
        (tmp_path / "out" / "items.jsonl").write_text(damaged, encoding="utf-8")
        assert score("pope", questions, file).n == 2


@pytest.mark.parametrize("name", checkerboard(NAMES))
def test_half_an_emoji_in_an_answer_stops_nothing(name, tmp_path):
    """What a server leaves of an answer that it cut in the middle of one; JSON can say it, UTF-8 cannot."""
    questions, answers, options = arguments(name, tmp_path)
    cut = [{"id": answer["id"], "text": "Yes, a dog \ud83d"} for answer in answers]
    (tmp_path / "cut.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cut), encoding="utf-8")
    found = score(name, questions, tmp_path / "cut.jsonl", resamples=20, **options)
    write_items(tmp_path / "items.jsonl", found)
    for to, end in (("jsonl", "jsonl"), ("llava", "jsonl"), ("lmms_eval", "jsonl"), ("official", "json")):
        # has no ids, or is no file, or there is none
        if to == "official" and name in ("pope", "repope", "naturalbench", "finer"):
            continue
        out = tmp_path / (to if (name, to) == ("mme", "official") else f"{to}.{end}")
        export_answers(name, questions, cut, to, out)
        if (name, to) != ("mme", "official"):  # has a mark in its place
            assert score(name, questions, out, resamples=20, **options) == found
    if name in ("pope", "mme"):
        with pytest.raises(DataError, match=r"row 1: has half a surrogate pair.*use JSON lines"):
            export_answers(name, questions, cut, "vlmevalkit", tmp_path / "t.tsv")


def test_splits_in_folders_of_their_own_are_told_apart_by_the_folder(tmp_path):
    splits = {"popular": [asked(1, "dog")], "random": [asked(1, "dog"), asked(2, "cat")]}
    files = [pope_folder(tmp_path / f"pope_{name}", rows) for name, rows in splits.items()]
    found = score("pope", splits, files)
    assert (found.n, found.metrics["random/accuracy"], found.metrics["popular/accuracy"]) == (3, 1, 1)
    swapped = {"popular": [asked(1, "dog"), asked(2, "bench")], "random": splits["random"]}
    with pytest.raises(DataError, match="1 of 2 rows show another question"):
        score("pope", swapped, {"popular": files[1], "random": files[1]})
    with pytest.raises(DataError, match=r"share a name.*; give each split once, with its name in that of its file or"):
        score("pope", splits, [files[0], files[0]])
