"""NaturalBench: groups of two questions about two images, in the rows of all who publish them."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpref.errors import ConfigError, DataError
from mmpref.evals import load_samples, score
from mmpref.evals.benchmarks.naturalbench import read_official, read_ours

PLACES = ("q0_i0", "q0_i1", "q1_i0", "q1_i1")
CHOICE = "multiple_choice"


def group(index, kind="yes_no", **more):
    first, second = ("Yes", "No") if kind == "yes_no" else ("A", "B")
    options = "" if kind == "yes_no" else f"\nOption: A:Cap {index}; B:Helmet {index};"
    return {
        "Index": index, "Question_Type": kind, "Source": "made up",
        "Image_0": f"{index}a.jpg", "Image_1": f"{index}b.jpg",
        "Question_0": f"Is thing {index} red?{options}", "Question_1": f"Is thing {index} blue?{options}",
        "Image_0_Question_0": first, "Image_1_Question_0": second,
        "Image_0_Question_1": second, "Image_1_Question_1": first, **more,
    }  # fmt: skip


def flat(groups, keys=("index", "question", "answer", "type", "image_path")):
    """The rows of VLMEvalKit's table, or with other keys those of lmms-eval's data set."""
    return [
        dict(
            zip(
                keys,
                (
                    4 * g["Index"] + n,
                    g[f"Question_{place[1]}"],
                    g[f"Image_{place[4]}_Question_{place[1]}"],
                    g["Question_Type"],
                    g[f"Image_{place[4]}"],
                ),
                strict=True,
            )
        )
        for g in groups
        for n, place in enumerate(PLACES)
    ]


GROUPS = [group(0), group(1, CHOICE), group(2)]
SAID = ["Yes", "No", "No", "Yes", "A", "B", "A", "A", "Yes", "Yes", "No", "No"]


def by_id(said):
    return [{"id": f"{n // 4}/{PLACES[n % 4]}", "text": text} for n, text in enumerate(said)]


def run(answers=None, protocol="mmpref", questions=GROUPS, **options):
    return score(
        "naturalbench", questions, by_id(SAID) if answers is None else answers, protocol, resamples=20, **options
    )


@pytest.mark.parametrize("protocol", ["mmpref", "official", "lmms_eval", "vlmevalkit"])
def test_metrics_by_hand(protocol):
    """Group 0 whole; 1 all but q1_i0: question 0 and image 1; 2 right at q0_i0 and q1_i0: image 0 alone."""
    found = run(protocol=protocol).metrics
    assert {name: found[name] for name in ("accuracy", "question_accuracy", "image_accuracy", "group_accuracy")} == {
        "accuracy": pytest.approx(9 / 12),
        "question_accuracy": pytest.approx(3 / 6),
        "image_accuracy": pytest.approx(4 / 6),
        "group_accuracy": pytest.approx(1 / 3),
    }
    assert found["multiple_choice/accuracy"] == pytest.approx(3 / 4)
    assert found["yes_no/group_accuracy"] == pytest.approx(1 / 2)
    assert found["yes_ratio"] == found["yes_no/yes_ratio"] == pytest.approx(4 / 8)
    assert "multiple_choice/yes_ratio" not in found


@pytest.mark.parametrize(
    ("text", "kind", "read"),
    [
        ("Yes, no", "yes_no", "yes"), ("no yes", "yes_no", "no"), ("yesterday", "yes_no", "unparsed"),
        ("know", "yes_no", "unparsed"), ("There is none", "yes_no", "unparsed"), ("_no_", "yes_no", "unparsed"),
        ("It is a B", CHOICE, "A"), ("b)", CHOICE, "B"), ("AB", CHOICE, "unparsed"), ("", CHOICE, "unparsed"),
    ],
)  # fmt: skip
def test_the_rule_of_the_script(text, kind, read):
    assert read_official(text, "", kind) == read


def test_our_reader_knows_the_options():
    said = ["Yes."] * 4 + ["It is a helmet 1.", "B) Helmet 1", "the cap 1", "A dog"] + ["No."] * 4
    read = {item["id"]: item["read"] for item in run(by_id(said)).items}
    assert [read[f"1/{place}"] for place in PLACES] == ["B", "B", "A", "unparsed"]


def test_a_question_with_or_has_a_yes_where_its_type_says_so():
    question = "Is the setting likely to be a personal kitchen or food prep area?"
    said = {text: read_ours(text, question, "yes_no") for text in ("Yes", "No.", "Yes, a kitchen.", "Yes and no", "")}
    assert list(said.values()) == ["yes", "no", "yes", "unparsed", "unparsed"]


def test_the_prompt_is_the_scripts_without_a_space_unless_another_is_wanted():
    def asked(**options):
        return [load_samples("naturalbench", GROUPS, **options)[n].prompt[0].text for n in (0, 6)]

    question = "Is thing 1 blue?\nOption: A:Cap 1; B:Helmet 1;"
    letter = "Please output the letter corresponding to the correct option."
    assert asked() == ["Is thing 0 red?Please answer Yes or No.", f"{question}{letter}"]
    assert asked(prompt="lmms_eval") == ["Is thing 0 red? Please answer Yes or No.", f"{question} {letter}"]
    assert asked(prompt="question") == ["Is thing 0 red?", question]
    with pytest.raises(ConfigError, match=r"unknown prompt 'lmms-eval'.*did you mean 'lmms_eval'"):
        asked(prompt="lmms-eval")


@pytest.mark.parametrize(
    "keys",
    [
        ("index", "question", "answer", "type", "image_path"),
        ("Index", "Question", "Answer", "Question_Type", "Image"),
    ],
)
def test_rows_of_one_question_are_groups_of_four(keys):
    rows = flat(GROUPS, keys)
    own = load_samples("naturalbench", GROUPS)
    assert [(s.id, s.target, s.images, s.prompt) for s in load_samples("naturalbench", rows[::-1])] == [
        (s.id, s.target, s.images, s.prompt) for n in (2, 1, 0) for s in own[4 * n : 4 * n + 4]
    ]


def test_a_parquet_file_has_the_images_in_it(tmp_path):
    file = tmp_path / "train-00000-of-00001.parquet"
    held = [
        {**row, **{f"Image_{n}": {"bytes": bytes([row["Index"], n]), "path": None} for n in (0, 1)}} for row in GROUPS
    ]
    pq.write_table(pa.Table.from_pylist(held), file)
    samples = load_samples("naturalbench", file)
    assert [sample.images[0].data for sample in samples[4:8]] == [bytes([1, n]) for n in (0, 1, 0, 1)]
    assert [sample.meta["image"] for sample in samples[4:8]] == ["1_0.jpg", "1_1.jpg"] * 2
    assert run(questions=tmp_path).metrics == run().metrics


def test_the_set_for_fine_tuning_is_read(tmp_path):
    """Lists, whose questions end with the instruction and whose type is mcq."""
    rows = []
    for row in flat(GROUPS):
        kind = "mcq" if row["type"] == CHOICE else row["type"]
        suffix = (
            "Please answer Yes or No."
            if kind == "yes_no"
            else ("Please output the letter corresponding to the correct option.")
        )
        rows.append([row["question"] + suffix, row["image_path"], row["answer"], kind])
    file = tmp_path / "test_set.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert [s.prompt[0].text for s in load_samples("naturalbench", file)] == [row[0] for row in rows]
    assert run(questions=file).metrics == run().metrics
    file.write_text(json.dumps([*rows, ["Is it?"]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"test_set\.json, row 13: 1 values; expected question, image, answer and type"):
        run(questions=file)


FORMS: dict[str, Any] = {
    "numbers": [{"id": n, "text": text} for n, text in enumerate(SAID)],
    "four in a row": [{"Index": i, **dict(zip(PLACES, SAID[4 * i : 4 * i + 4], strict=True))} for i in (2, 0, 1)],
    "one object": {str(i): dict(zip(PLACES, SAID[4 * i : 4 * i + 4], strict=True)) for i in range(3)},
    "lmms-eval": [
        {"doc_id": row["index"], "input": row["question"], "doc": {"Index": row["index"]}, "filtered_resps": [text]}
        for row, text in zip(flat(GROUPS), SAID, strict=True)
    ][::-1],
    "VLMEvalKit": [
        {"index": row["index"], "question": row["question"], "type": row["type"], "prediction": text}
        for row, text in zip(flat(GROUPS), SAID, strict=True)
    ][::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_read_in_every_form(form, tmp_path):
    expected = run()
    assert run(FORMS[form]).metrics == expected.metrics
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(FORMS[form]), encoding="utf-8")
    found = run(file)
    assert (found.metrics, found.warnings) == (expected.metrics, expected.warnings)


def test_a_list_of_texts_is_paired_by_order_and_said_to_be(tmp_path):
    file = tmp_path / "output_file.json"
    file.write_text(json.dumps(SAID), encoding="utf-8")
    for source in (SAID, file):
        found = run(source)
        assert found.metrics == run().metrics
        assert "order_unconfirmed" in [warning.code for warning in found.warnings]
    with pytest.raises(DataError, match="11 texts and 12 questions"):
        run(SAID[:11])


def test_labels_that_the_script_does_not_read_are_said():
    odd = [group(0, Image_0_Question_0="No", Image_1_Question_0="Yes"), *GROUPS[1:]]
    assert run(questions=odd).metrics["accuracy"] == pytest.approx(7 / 12)
    official = run(questions=odd, protocol="official")
    assert official.metrics == run(protocol="official").metrics
    assert any("official does not read labels: 2 questions" in note for note in official.notes)


def test_a_group_that_was_not_asked_whole_is_in_no_group_accuracy():
    samples = load_samples("naturalbench", GROUPS)
    from mmpref.evals.scoring import benchmark_named, score_samples, with_defaults  # the parts that --limit uses
    from mmpref.records import Answer

    chosen = benchmark_named("naturalbench")
    answers = [Answer(id=sample.id, text=text) for sample, text in zip(samples, SAID, strict=True)]
    found = score_samples(chosen, samples[:6], answers[:6], "mmpref", with_defaults(chosen, {}), resamples=5).metrics
    assert (found["accuracy"], found["question_accuracy"], found["group_accuracy"]) == (1, 1, 1)
    assert found["multiple_choice/group_accuracy"] is None


@pytest.mark.parametrize(
    ("questions", "says"),
    [
        ([*GROUPS, group(0)], "row 4: group '0' stands in questions, row 1 too"),
        ([group(0, Question_1=None), *GROUPS[1:]], "row 1: Question_1 is None; expected text"),
        ([group(0, Image_1_Question_0="maybe")], "row 1: Image_1_Question_0 is 'maybe'; expected 'yes' or 'no'"),
        ([group(0), group(1, CHOICE, Image_0_Question_1="C")], "row 2: Image_0_Question_1 is 'C'; expected 'A' or 'B'"),
        ([group(0, "open")], "row 1: Question_Type is 'open'; expected 'yes_no' or 'multiple_choice'"),
        (flat(GROUPS)[:-1], "row 9: of the group of index 8 to 11 the index 11 is missing"),
        ([*flat(GROUPS), flat(GROUPS)[2]], "row 13: index 2 stands in questions, row 3 too"),
        ([{**r, "question": f"{n}?"} for n, r in enumerate(flat(GROUPS))], "row 1: the four rows of index 0 to 3 ask"),
        ([{**flat(GROUPS)[0], "index": "x"}], "row 1: index is 'x'; expected a whole number"),
    ],
)  # fmt: skip
def test_rows_that_are_no_group_are_refused(questions, says):
    with pytest.raises(DataError, match=says):
        run(questions=questions)


def test_answers_that_fit_no_question_are_refused():
    with pytest.raises(DataError, match=r"row 3 \(group '1'\): q1_i1 is missing; a group has four answers"):
        run([{k: v for k, v in row.items() if k != "q1_i1" or row["Index"] != 1} for row in FORMS["four in a row"]])
    with pytest.raises(DataError, match=r"have an id that no question has: '3/q0_i0'.*an id is 'INDEX/q0_i1'"):
        run([*by_id(SAID), {"id": "3/q0_i0", "text": "Yes"}])
    with pytest.raises(DataError, match="shows 'Is thing 9 red"):
        run([{**row, "prompt": "Is thing 9 red?"} for row in by_id(SAID)])
