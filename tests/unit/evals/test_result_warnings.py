"""A number that means nothing bears a warning: on the screen, in results.json and in the report."""

import json
import random

import pytest

from mmpref.cli.main import main
from mmpref.evals import score

OBJECTS = ["dog", "cat", "car", "bus", "chair", "bowl", "clock", "horse", "kite", "sheep", "truck", "zebra"]


def pope(n=60, seed=0):
    """Rows about several objects, a yes and a no in turn, the labels of which are in no order."""
    rng = random.Random(seed)
    return [
        {"question_id": k, "image": f"{k // 6}.jpg", "text": f"Is there a {rng.choice(OBJECTS)} in the image?",
         "label": rng.choice(["yes", "no"])}
        for k in range(n)
    ]  # fmt: skip


def named(row):
    return row["text"].removeprefix("Is there a ").removesuffix(" in the image?")


def sentence(row, label=None):
    return f"Yes, there is a {named(row)}." if (label or row["label"]) == "yes" else f"No, there is no {named(row)}."


def answers(texts):
    return [{"id": k, "text": text} for k, text in enumerate(texts)]


def captions(n=40, seed=0):
    rng = random.Random(seed)
    return {str(k): rng.sample(OBJECTS, 2) for k in range(n)}


def caption(objects):
    return f"A {objects[0]} stands beside a {objects[1]}."


def codes(result):
    return [warning.code for warning in result.warnings]


def told(questions, texts, benchmark="pope", **options):
    return codes(score(benchmark, questions, answers(texts), resamples=10, **options))


# --- good answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 60, 300])
def test_right_answers_raise_no_warning(n):
    rows = pope(n)
    assert told(rows, [row["label"] for row in rows]) == []
    assert told(rows, [sentence(row) for row in rows]) == []
    truth = captions(n)
    assert told(truth, [caption(objects) for objects in truth.values()], "chair") == []


def test_a_weak_model_raises_no_warning():
    rows, rng = pope(600), random.Random(1)
    texts = [row["label"] if rng.random() < 0.6 else "yes" for row in rows]
    assert told(rows, texts) == []


def test_denials_that_name_what_is_there_are_no_answers_to_other_questions():
    rows = pope(120)
    others = [next(thing for thing in OBJECTS[k % 11 :] if thing != named(row)) for k, row in enumerate(rows)]
    texts = [sentence(row) if row["label"] == "yes" else f"No, it is a {others[k]}." for k, row in enumerate(rows)]
    assert told(rows, texts) == []


def test_answers_that_are_right_to_be_alike_raise_no_warning():
    rows = [{**row, "label": "no"} for row in pope(40)]  # AMBER's existence questions have one answer
    assert told(rows, ["no"] * 40) == []


# --- answers that are all alike -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Yes", "yes, there is one.", "No."])
def test_one_answer_to_all_questions(text):
    assert told(pope(), [text] * 60) == ["one_answer"]


def test_nearly_one_answer():
    assert told(pope(), ["Yes"] * 58 + ["No"] * 2) == ["one_answer"]


def test_one_answer_in_one_split_names_the_split():
    rows, more = pope(40), pope(40, seed=1)
    texts = [row["label"] for row in rows] + ["yes"] * 40
    splits = {"random": rows, "popular": [{**row, "question_id": row["question_id"] + 40} for row in more]}
    found = score("pope", splits, answers(texts), resamples=10)
    assert codes(found) == ["one_answer"]
    assert found.warnings[0].sentence.startswith("popular: 40 of 40 (100.0%)")


def test_one_caption_for_all_images():
    truth = captions()
    assert told(truth, ["A dog stands beside a cat."] * 40, "chair") == ["same_text"]


def test_a_sentence_that_is_written_twice():
    truth = captions()
    texts = [caption(objects) for objects in truth.values()]
    texts[1::4] = texts[0::4]
    assert "repeated_text" in told(truth, texts, "chair")


def test_one_question_about_many_images_may_have_one_answer():
    """As in DASH-B and NaturalBench, whose rows ask the same about one image after the other."""
    rows = [{**row, "text": f"Is there a {OBJECTS[k // 10]} in the image?", "image": f"{k}.jpg"} for k, row in
            enumerate(pope(120))]  # fmt: skip
    assert told(rows, [sentence(row) for row in rows]) == []


def test_reasons_that_end_with_the_answer_are_not_cut():
    rows = pope()
    why = "I look at the foreground first, then at the background, and at all that lies between them; so the answer is"
    assert told(rows, [f"{why} {row['label']}" for row in rows]) == []


# --- answers that were not read, or not finished --------------------------------------------------------------------


def test_shares_of_what_was_not_read():
    rows = pope()
    labels = [row["label"] for row in rows]
    assert told(rows, ["", "", "", "", *labels[4:]]) == ["empty_answers"]
    assert told(rows, ["hm", "hm", "hm", "hm", *labels[4:]]) == ["unread_answers"]
    assert told(rows, ["hm", "hm", "hm", *labels[3:]]) == []  # 5 %
    cut = [{"id": k, "text": label, "finish_reason": "length"} for k, label in enumerate(labels)]
    assert codes(score("pope", rows, cut, resamples=10)) == ["cut_answers"]


def test_long_captions_that_end_within_a_sentence():
    truth = captions()
    whole = [f"{caption(objects)} The light is soft, and nothing else in the scene moves or catches the eye at all, so "
             f"that one looks at the {objects[0]} first." for objects in truth.values()]  # fmt: skip
    assert told(truth, whole, "chair") == []
    assert told(truth, [text[:-8] for text in whole], "chair") == ["cut_answers"]


# --- answers to other questions -------------------------------------------------------------------------------------


def test_bare_answers_in_another_order():
    rows, texts = pope(200), [row["label"] for row in pope(200)]
    random.Random(3).shuffle(texts)
    assert told(rows, texts) == ["no_better_than_shuffle"]


@pytest.mark.parametrize("n", [30, 60])
def test_a_model_that_is_often_wrong_is_not_taken_for_guesses(n):
    """Of 20 that are right three times of four hardly one is, and of 20 that guess two of three are."""
    rows, turned = pope(n), {"yes": "no", "no": "yes"}
    rng = random.Random(n)

    def found(share):
        texts = [row["label"] if rng.random() < share else turned[row["label"]] for row in rows]
        return "no_better_than_shuffle" in told(rows, texts)

    assert sum(found(0.75) for _ in range(20)) <= 1
    assert sum(found(0.5) for _ in range(20)) >= 13


def test_letters_and_words_are_dealt_out_among_their_own_questions():
    """That no letter answers a question of yes or no is no skill: NaturalBench asks for both."""
    rng = random.Random(2)
    rows = [
        {
            "Index": number,
            "Question_0": f"Is {number} a bird?",
            "Question_1": f"Is {number} a fish?",
            "Image_0": "a.jpg",
            "Image_1": "b.jpg",
            "Question_Type": "multiple_choice" if number % 2 else "yes_no",
            **{
                f"Image_{image}_Question_{question}": ("AB" if number % 2 else ("Yes", "No"))[image ^ question]
                for image in (0, 1)
                for question in (0, 1)
            },
        }
        for number in range(40)
    ]
    guesses = [
        {"id": f"{row['Index']}/{place}", "text": rng.choice("AB" if row["Index"] % 2 else ("Yes", "No"))}
        for row in rows
        for place in ("q0_i0", "q0_i1", "q1_i0", "q1_i1")
    ]
    right = [
        {
            **answer,
            "text": rows[int(answer["id"].split("/")[0])][f"Image_{answer['id'][-1]}_Question_{answer['id'][-4]}"],
        }
        for answer in guesses
    ]
    assert codes(score("naturalbench", rows, guesses, resamples=10)) == ["no_better_than_shuffle"]
    assert codes(score("naturalbench", rows, right, resamples=10)) == []


@pytest.mark.parametrize("by", [1, -2])
def test_sentences_that_slipped_by_a_row_say_by_how_many(by):
    rows = pope()
    texts = [sentence(rows[(k + by) % 60]) for k in range(60)]
    found = score("pope", rows, answers(texts), resamples=10)
    assert "other_questions" in codes(found)
    where = "1 row later" if by == 1 else "2 rows earlier"
    assert any(f"They fit the question {where}." in warning.sentence for warning in found.warnings)


def test_sentences_about_the_objects_of_another_split():
    """The splits have the same ids, the same questions with the answer yes, and other objects where it is no."""
    rows, other = pope(120), pope(120, seed=9)
    texts = [sentence(row if row["label"] == "yes" else other[k], row["label"]) for k, row in enumerate(rows)]
    found = score("pope", rows, answers(texts), resamples=10)
    assert found.metrics["accuracy"] == 1.0
    assert codes(found) == ["other_questions"]
    assert "Answers to another split or revision?" in found.warnings[0].sentence


@pytest.mark.parametrize("n", [30, 400])
def test_captions_that_slipped_by_an_image(n):
    truth = captions(n)
    texts = [caption(objects) for objects in truth.values()]
    found = score("chair", truth, answers(texts[1:] + texts[:1]), resamples=10)
    assert codes(found) == ["other_images"]
    assert found.warnings[0].sentence.endswith("They fit the image 1 row later.")


def test_captions_of_which_a_row_lacks_from_some_place_on():
    truth = captions(200)
    texts = [caption(objects) for objects in truth.values()]
    found = score("chair", truth, answers([*texts[:100], *texts[101:], texts[100]]), resamples=10)
    assert codes(found) == ["other_images"]
    assert "lack a row" in found.warnings[0].sentence


def test_a_slip_is_one_in_the_order_of_the_answers():
    truth = captions(200)
    ids = [str(k) for k in range(200)]
    random.Random(0).shuffle(ids)
    rows = [{"id": ids[k], "text": caption(truth[ids[(k + 1) % 200]])} for k in range(200)]
    found = score("chair", truth, rows, resamples=10)
    assert found.warnings[0].sentence.endswith("They fit the image 1 row later.")


def test_open_answers_to_other_questions():
    names = [f"{a}{b}" for a in ("red", "tall", "old", "wet", "thin") for b in OBJECTS]
    rows = [{"id": k, "prompt": f"Tell me about the {name}.", "output": "r"} for k, name in enumerate(names)]
    verdicts = [{"id": k, "preference": 1.0, "judge": "j"} for k in range(60)]
    texts = [f"The {name} is fine." for name in names]
    assert told(rows, texts, "win_rate", verdicts=verdicts) == []
    assert told(rows, texts[1:] + texts[:1], "win_rate", verdicts=verdicts) == ["other_questions"]


# --- order and split ------------------------------------------------------------------------------------------------


def test_order_that_nothing_confirms():
    rows = pope()
    bare = [{"text": row["label"]} for row in rows]
    found = score("pope", rows, bare, "official", pairing="order", resamples=10)
    assert codes(found) == ["order_unconfirmed"]
    prompted = [{"text": row["label"], "prompt": row["text"]} for row in rows]
    assert codes(score("pope", rows, prompted, "official", pairing="order", resamples=10)) == []
    truth = captions(20)
    prompts = [{"image_id": image, "prompt": "Describe the image."} for image in truth]
    alike = [
        {"prompt": "Please describe this image in detail.", "predict": caption(objects)} for objects in truth.values()
    ]
    assert codes(score("chair", truth, alike, prompts=prompts, resamples=10)) == ["order_unconfirmed"]


def test_a_file_that_bears_the_name_of_another_split(tmp_path):
    rows = pope()
    files = {}
    for name, content in (
        ("coco_pope_random", rows),
        ("popular_answers", answers([row["label"] for row in rows])),
        ("random_answers", answers([row["label"] for row in rows])),
    ):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(content), encoding="utf-8")
    found = score("pope", files["coco_pope_random"], files["popular_answers"], resamples=10)
    assert codes(found) == ["other_split"]
    assert codes(score("pope", files["coco_pope_random"], files["random_answers"], resamples=10)) == []


# --- where a warning is seen ----------------------------------------------------------------------------------------


def test_a_warning_is_on_the_screen_in_the_result_and_in_the_report(tmp_path, capsys):
    rows = pope()
    for name, content in (("q", rows), ("a", answers(["Yes"] * 60))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    given = ["--questions", str(tmp_path / "q.json"), "--answers", str(tmp_path / "a.json")]
    assert main(["score", "--benchmark", "pope", *given, "--out", str(tmp_path / "r.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "WARNING (one_answer): 60 of 60 (100.0%) of the answers that could be read are 'yes'" in shown
    written = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [warning["code"] for warning in written["warnings"]] == ["one_answer"]
    assert written["warnings"][0]["sentence"] in shown
    for ending in ("html", "md", "csv", "tex"):
        assert main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / f"p.{ending}")]) == 0
        page = (tmp_path / f"p.{ending}").read_text(encoding="utf-8")
        assert "WARNING: 60 of 60 (100.0" in page


# --- on public files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["I1_llava", "I2_instructblip"])
def test_published_captions_raise_no_warning_and_slipped_ones_do(bench_data, name):
    truth = bench_data / "chair" / "coco_chair_gt_subset.json"
    file = bench_data / "chair" / "pope_captions" / f"pope_{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:300]
    assert codes(score("chair", truth, rows, resamples=10)) == []
    slipped = [{**row, "caption": after["caption"]} for row, after in zip(rows, rows[1:] + rows[:1], strict=True)]
    assert codes(score("chair", truth, slipped, resamples=10)) == ["other_images"]
