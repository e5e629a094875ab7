"""RePOPE: POPE's answers under corrected labels, and what that changes."""

import json
import re
import shlex

import pytest

from mmpref.errors import DataError
from mmpref.evals import compare, score
from mmpref.evals.scoring import text_options
from mmpref.yaml_text import parse_options

SPLITS = ("random", "popular", "adversarial")
THINGS = ("dog", "cat", "cup", "bus")
SAID = ("Yes", "Yes", "Yes", "No")


def pope(split, labels=("yes", "no", "yes", "no")):
    """Two questions about every image."""
    return [
        {
            "question_id": n,
            "image": f"COCO_{(n + 1) // 2}.jpg",
            "text": f"Is there a {THINGS[n - 1]} in the image?",
            "label": label,
        }
        for n, label in enumerate(labels, 1)
    ]


def repope(split):
    """The first label changed, the second question removed."""
    first, _, *others = pope(split)
    return [{**first, "label": "no"}, *others]


def files(folder, name, rows_of, splits=SPLITS):
    folder.mkdir(exist_ok=True)
    found = []
    for split in splits:
        file = folder / f"coco_{name}_{split}.json"
        file.write_text("\n".join(map(json.dumps, rows_of(split))), encoding="utf-8")
        found.append(file)
    return found


def texts(*said):
    return [{"question_id": n, "text": text} for n, text in enumerate(said, 1)]


def run(answers, protocol="mmpref", **options):
    return score("repope", repope("random"), answers, protocol, resamples=50, **options)


def test_both_labels_by_hand():
    """POPE: yes no yes no; RePOPE: no - yes no. Answers: yes yes yes no."""
    found = run(texts("Yes", "Yes", "Yes", "No"), pope=pope("random"))
    assert (found.n, found.n_unparsed) == (3, 0)
    assert found.metrics == pytest.approx(
        {
            "accuracy": 2 / 3, "precision": 1 / 2, "recall": 1, "f1": 2 / 3, "yes_ratio": 2 / 3, "pope_accuracy": 3 / 4,
            "pope_precision": 2 / 3, "pope_recall": 1, "pope_f1": 4 / 5, "pope_yes_ratio": 3 / 4,
            "change_accuracy": -1 / 12, "change_precision": -1 / 6, "change_recall": 0, "change_f1": 2 / 3 - 4 / 5,
            "change_yes_ratio": -1 / 12,
        }
    )  # fmt: skip
    assert found.notes == (
        "of 4 questions of POPE 1 are removed and 1 labels changed (1 from yes to no, 0 from no to yes)",
    )


def test_answers_to_removed_questions_raise_no_warning():
    """Fifteen of twenty questions are removed, and one word is the right answer to them."""
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a thing {n} in the image?", "label": label}
        for n, label in enumerate(["yes", "no"] * 10, 1)
    ]
    answers = texts(*(row["label"] for row in rows))
    kept = [row for row in rows if row["question_id"] > 15]
    found = score("repope", kept, answers, resamples=20, pope=rows)
    assert (found.n, found.metrics["pope_accuracy"], found.warnings) == (5, 1, ())


def test_answers_to_removed_questions_are_left_out_and_counted():
    answers = texts("Yes", "Yes", "Yes", "No")
    with_them, without = run(answers), run([answers[0], *answers[2:]])
    assert with_them.metrics == without.metrics
    assert set(with_them.metrics) == {"accuracy", "precision", "recall", "f1", "yes_ratio"}
    assert "1 answers to questions of POPE that RePOPE removed are left out" in with_them.notes
    assert not any("left out" in note for note in without.notes)


def test_the_questions_are_no_former_labels():
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a thing {n} in the image?", "label": label}
        for n, label in enumerate(["yes", "no"] * 3, 1)
    ]
    with pytest.raises(
        DataError, match=r"the same 6 questions and labels as the questions.*`pope=coco_pope_random.json`"
    ):
        score("repope", rows, texts(*["Yes"] * 6), pope=rows)


def test_a_part_of_the_questions_is_warned_of():
    """RePOPE removed one question of nine to thirteen; an answer file with many more has other questions missing."""
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a thing {n} in the image?", "label": label}
        for n, label in enumerate(["yes", "no"] * 50, 1)
    ]
    answers = texts(*(row["label"] for row in rows))
    codes = {
        kept: [w.code for w in score("repope", rows[:kept], answers, resamples=5).warnings] for kept in (89, 85, 84, 50)
    }
    assert codes == {89: [], 85: [], 84: ["questions_in_part"], 50: ["questions_in_part"]}


def advised(text):
    """The option that a message writes between backticks, as the command line reads it."""
    return parse_options(shlex.split(re.search(r"`(pope=[^`]+)`", text)[1]), texts=text_options("repope"))


@pytest.mark.parametrize("splits", [("popular",), SPLITS])
def test_what_a_note_advises_works(splits, tmp_path, monkeypatch):
    files(tmp_path, "pope", pope)
    new = files(tmp_path, "repope", repope, splits)
    monkeypatch.chdir(tmp_path)
    answers = {split: texts(*SAID) for split in splits}
    note = next(note for note in score("repope", new, answers, resamples=5).notes if "`pope=" in note)
    found = score("repope", new, answers, resamples=5, **advised(note))
    assert found.metrics["pope_accuracy"] == 3 / 4


def test_official_counts_only_what_was_read_and_reads_letters():
    """'eyes' is a yes and 'cannot' a no; '...' is in no number."""
    found = run(texts("eyes", "-", "...", "I cannot say"), "official")
    assert found.metrics == {"accuracy": 0.5, "precision": 0, "recall": None, "f1": None, "yes_ratio": 0.5}
    assert (found.n, found.n_unparsed) == (3, 1)


def test_three_splits_in_a_folder_that_has_both(tmp_path):
    files(tmp_path, "pope", pope)
    files(tmp_path, "repope", repope)
    answers = {split: texts("Yes", "Yes", "Yes", "No") for split in SPLITS}
    found = score("repope", tmp_path, answers, resamples=20, pope=tmp_path)
    assert found.n == 9
    for split in SPLITS:
        assert found.metrics[f"{split}/accuracy"] == pytest.approx(2 / 3)
        assert found.metrics[f"{split}/change_accuracy"] == pytest.approx(-1 / 12)
        assert any(note.startswith(f"{split}: of 4 questions of POPE 1 are removed") for note in found.notes)
    one = score("repope", tmp_path / "coco_repope_popular.json", answers, resamples=20, pope=tmp_path)
    assert (one.n, one.metrics["pope_accuracy"]) == (3, 3 / 4)


LAYOUTS = {
    "LLaVA": lambda row, said: {
        "question_id": row["question_id"], "prompt": row["text"], "text": said, "model_id": "m",
    },
    "question and answer with an id": lambda row, said: {
        "question_id": row["question_id"], "question": row["text"], "answer": said,
    },
    "lmms-eval": lambda row, said: {
        "doc_id": row["question_id"] - 1, "doc": {**row, "question": row["text"]}, "filtered_resps": [said],
    },
    "VLMEvalKit": lambda row, said: {
        "index": row["question_id"] + 70, "question": f"{row['text']} Please answer yes or no.",
        "image_path": row["image"], "prediction": said,
    },
    "by image and question": lambda row, said: {"image": row["image"], "question": row["text"], "answer": said},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_answers_to_pope_are_taken_in_every_layout(layout):
    rows = [LAYOUTS[layout](row, said) for row, said in zip(pope("random"), SAID, strict=True)]
    found = run(rows)
    assert found.metrics == run(texts(*SAID)).metrics
    assert "1 answers to questions of POPE that RePOPE removed are left out" in found.notes


def test_the_answers_that_the_script_saves_are_read(tmp_path):
    """Its text is the question, its response the answer and its answer what it read."""
    said = {
        split: {
            str(row["question_id"]): {
                "question_id": str(row["question_id"]), "text": row["text"], "label": row["label"],
                "response": text, "answer": None,
            }
            for row, text in zip(pope(split), SAID, strict=True)
        }
        for split in SPLITS
    }  # fmt: skip
    file = tmp_path / "m_POPE_answers.json"
    file.write_text(json.dumps(said), encoding="utf-8")
    found = score("repope", files(tmp_path, "repope", repope), file, "official", resamples=20)
    assert found.metrics["popular/accuracy"] == pytest.approx(2 / 3)
    assert "RePOPE's script" in found.read_as
    said["random"]["1"]["text"] = "Is there a zebra in the image?"
    with pytest.raises(DataError, match=r"row 1 .* shows 'Is there a zebra"):
        score("repope", files(tmp_path, "repope", repope), said, resamples=20)


def test_all_answers_of_pope_in_order(tmp_path):
    """The layout of POPE's own script, without ids: 3,000 rows, of which RePOPE asks fewer."""
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {n} in the image?", "label": "no"}
        for n in range(1, 3001)
    ]
    kept = [row for row in rows if row["question_id"] % 10]
    said = [{"question": row["text"], "answer": "no" if row["question_id"] % 2 else "yes"} for row in rows]
    found = score("repope", kept, said, resamples=5)
    assert (found.n, found.metrics["accuracy"]) == (2700, pytest.approx(1500 / 2700))
    assert "300 answers to questions of POPE that RePOPE removed are left out" in found.notes
    with pytest.raises(DataError, match=r"3000 questions are all of POPE's .* pass coco_repope_random\.json"):
        score("repope", rows, said)


def llava(rows, step, spelling="image"):
    """Rows of ``llava_pope_test.jsonl``, which asks POPE's older revision."""
    return [
        {
            "question_id": step + row["question_id"],
            "prompt": row["text"].replace("image?", f"{spelling}?") + "\nAnswer the question using a single word.",
            "text": row["label"].title(),
            "model_id": "m",
        }
        for row in rows
    ]


@pytest.mark.slow
def test_llavas_answers_of_all_splits(tmp_path):
    """Popular and adversarial are asked as in the newest revision but for "imange"; random is not."""
    both = {
        split: [
            {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {split} {n} in the image?", "label": "no"}
            for n in range(1, 3001)
        ]
        for split in SPLITS
    }
    answers = [
        *llava(both["adversarial"], 0),
        *llava(both["random"][:2910], 10_000_000),
        *llava(both["popular"], 20_000_000, "imange"),
    ]
    new = files(tmp_path, "repope", lambda split: [row for row in both[split] if row["question_id"] % 10])
    for file in new[1:]:
        found = score("repope", file, answers, resamples=5)
        assert (found.n, found.metrics["accuracy"]) == (2700, 1)
        assert "300 answers to questions of POPE that RePOPE removed are left out" in found.notes
    with pytest.raises(DataError, match=r"row 3001: question_id 10000001 is LLaVA's of POPE's random split"):
        score("repope", new, answers)


def changed(rows, number, **more):
    return [{**row, **more} if row["question_id"] == number else row for row in rows]


@pytest.mark.parametrize(
    ("questions", "former", "says"),
    [
        (repope("random"), pope("random")[1:], "1 questions are not among those of `pope=`, the first is '1'"),
        (repope("random"), changed(pope("random"), 3, image="9.jpg"), "question '3' is .* and in `pope=` '9.jpg "),
        (changed(repope("random"), 3, label="maybe"), None, "maybe"),
        (changed(repope("random"), 3, text=None), None, "text"),
        (repope("random"), changed(pope("random"), 3, label=1), "label"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_are_refused(questions, former, says):
    with pytest.raises(DataError, match=says):
        score("repope", questions, texts(*SAID), pope=former)


def test_the_former_labels_of_another_split_are_refused(tmp_path):
    new, old = files(tmp_path, "repope", repope), files(tmp_path, "pope", pope)
    with pytest.raises(DataError, match="`pope=` has no questions of split 'random' but those of 'popular'") as err:
        score("repope", new[0], texts(*SAID), pope=old[1])
    assert advised(str(err.value)[8:]) == {"pope": "coco_pope_random.json"}


@pytest.mark.parametrize("benchmark", ["pope", "repope"])
def test_one_split_takes_an_answer_file_of_all(benchmark, tmp_path):
    """As ``mmpref eval`` writes it when it asks the three splits: the ids name the split."""
    rows_of = {"pope": pope, "repope": repope}[benchmark]
    new = files(tmp_path, benchmark, rows_of)
    said = {"random": ("No",) * 4, "popular": SAID, "adversarial": ("no",) * 4}
    rows = [{"id": f"{split}/{n}", "text": text} for split in SPLITS for n, text in enumerate(said[split], 1)]
    found = score(benchmark, new[1], rows, resamples=5)
    assert found.metrics == score(benchmark, new[1], texts(*SAID), resamples=5).metrics
    assert "8 answers to other splits are left out: random, adversarial" in found.notes
    two = score(benchmark, new[1:], rows, resamples=5)
    assert two.metrics["popular/accuracy"] == found.metrics["accuracy"]
    with pytest.raises(DataError, match="all 4 rows say that they answer the split random, and the questions"):
        score(benchmark, new[1], rows[:4])


def test_answers_that_are_nobodys_are_refused():
    with pytest.raises(DataError, match="have an id that no question has: '3001'"):
        run([*texts(*SAID), {"question_id": 3001, "text": "Yes"}])
    with pytest.raises(DataError, match="1 of 3 questions have no answer: '4'"):
        run(texts(*SAID)[:3])
    with pytest.raises(DataError, match="shows 'Is there a cow"):
        run([{**row, "prompt": "Is there a cow in the image?"} for row in texts(*SAID)])


def test_the_change_is_compared_between_two_models():
    first, second = (run(texts(*said), pope=pope("random")) for said in (SAID, ("No", "Yes", "Yes", "No")))
    found = compare(first, second, resamples=20)
    assert found["accuracy"].value == pytest.approx(1 / 3)
    assert found["pope_accuracy"].value == pytest.approx(-1 / 4)
    assert found["change_accuracy"].value == pytest.approx(1 / 3 + 1 / 4)
