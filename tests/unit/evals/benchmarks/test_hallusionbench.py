"""HallusionBench by hand: one set with a drawing and a changed drawing, one with and without an image."""

import json

import pytest

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals import load_samples, score


def row(category, figure, question, truth, visual, subcategory="map"):
    return {
        "category": category,
        "subcategory": subcategory,
        "visual_input": visual,
        "set_id": "0",
        "figure_id": figure,
        "question_id": question,
        "sample_note": "n",
        "question": f"Is {category} {question} so?",
        "gt_answer_details": "It is.",
        "gt_answer": truth,
        "filename": None if visual == "0" else f"./images/{category}_{figure}.png",
    }


ROWS = [
    row("VD", "0", "0", "1", "1"),
    row("VD", "0", "1", "0", "1"),
    row("VD", "1", "0", "0", "2"),
    row("VD", "1", "1", "1", "2"),
    row("VS", "0", "0", "1", "0"),
    row("VS", "1", "0", "1", "1"),
    row("VS", "2", "0", "0", "2"),
]
IDS = [f"{r['category']}_map_0_{r['figure_id']}_{r['question_id']}" for r in ROWS]


def answers(*texts):
    return [{"id": name, "text": text} for name, text in zip(IDS, texts, strict=True)]


def verdicts(*values, same=None):
    rows = [{"id": name, "verdict": value, "judge": "j"} for name, value in zip(IDS, values, strict=True)]
    return rows if same is None else [{**r, "same": s} for r, s in zip(rows, same, strict=True)]


SAID = answers("Yes", "No.", "Yes, as before", "Yes", "I cannot tell without an image.", "Yes", "No")


def test_accuracies_by_hand():
    """Wrong is only VD_map_0_1_0: 6 of 7 answers, 1 of 2 VD figures and both VS ones, 2 of 3 pairs."""
    found = score("hallusionbench", ROWS, SAID)
    assert {name: found.metrics[name] for name in ("a_acc", "f_acc", "q_acc")} == pytest.approx(
        {"a_acc": 6 / 7, "f_acc": 3 / 4, "q_acc": 2 / 3}
    )
    assert found.metrics["VS/q_acc"] == found.metrics["VS_map/a_acc"] == 1
    assert found.metrics["VD/f_acc"] == 0.5
    assert (found.metrics["easy_a_acc"], found.metrics["hard_a_acc"]) == (1, pytest.approx(2 / 3))
    assert found.n_unparsed == 0
    assert "no judge" in found.notes[0]


def test_doubt_is_right_only_where_there_is_no_image():
    found = score(
        "hallusionbench", ROWS, answers("It is hard to tell.", "No", "No", "Yes", "It is hard to tell.", "Yes", "No")
    )
    right = {item["id"]: item["correct"] for item in found.items}
    assert not right["VD_map_0_0_0"]
    assert right["VS_map_0_0_0"]


def test_an_answer_that_cannot_be_read_is_wrong_and_counted():
    found = score("hallusionbench", ROWS, answers("hm", "No", "No", "Yes", "hm", "Yes", "No"))
    assert found.n_unparsed == 2
    assert found.metrics["a_acc"] == pytest.approx(5 / 7)


def test_errors_are_blamed_by_the_tree():
    """The wrong answer to the changed figure repeats the right one to the original: language or vision, mixed."""
    blame = {item["id"]: item["blame"] for item in score("hallusionbench", ROWS, SAID).items}
    assert blame == {**dict.fromkeys(IDS), "VD_map_0_1_0": "mixed"}
    told = verdicts("correct", "incorrect", "incorrect", "unclear", "incorrect", "incorrect", "incorrect",
                    same=[True, True, False, True, True, True, False])  # fmt: skip
    found = score("hallusionbench", ROWS, SAID, verdicts=told)
    blame = [item["blame"] for item in found.items]
    assert blame == [None, "vi", "vi", "vi", "lh", "lh", "mixed"]
    assert (found.metrics["lh"], found.metrics["vi"], found.metrics["mixed"]) == pytest.approx((2 / 6, 3 / 6, 1 / 6))


def test_without_same_the_diagnosis_is_undefined_and_the_rest_is_not():
    told = verdicts("correct", "correct", "incorrect", *["correct"] * 4)
    found = score("hallusionbench", ROWS, SAID, "official", verdicts=told)
    assert found.metrics["mixed"] is None
    assert "the judge's 'same'" in found.undefined["mixed"]
    assert found.metrics["a_acc"] == round(100 * 6 / 7, 4) / 100


def test_a_missing_verdict_leaves_its_groups_out():
    many = [dict(r, set_id=str(n)) for n in range(60) for r in ROWS]
    ids = [sample.id for sample in load_samples("hallusionbench", many)]
    said = [{"id": name, "text": "x"} for name in ids]
    told = [{"id": name, "verdict": "correct", "judge": "j"} for name in ids[1:]]
    found = score("hallusionbench", many, said, verdicts=told, resamples=5)
    assert (found.n, found.n_missing) == (len(ids) - 1, 1)
    assert (found.metrics["a_acc"], found.metrics["q_acc"], found.metrics["f_acc"]) == (1, 1, 1)
    with pytest.raises(EvalIncompleteError, match=r"20 of 420 answers have no verdict, more than 2%"):
        score("hallusionbench", many, said, verdicts=told[19:])


def test_the_views_of_the_tools_have_only_questions_with_a_image():
    told = verdicts(*["correct"] * 7)
    for protocol, more in (("lmms_eval", {"verdicts": told}), ("lmms_eval", {}), ("vlmevalkit", {})):
        found = score("hallusionbench", ROWS, SAID, protocol, **more)
        assert found.n == 6
        assert "only the 6 questions with an image" in found.notes[0]
    assert score("hallusionbench", ROWS, [a for a in SAID if a["id"] != IDS[4]], view="image").n == 6
    with pytest.raises(ConfigError, match="leave verdicts out"):
        score("hallusionbench", ROWS, SAID, "vlmevalkit", verdicts=told)


def test_the_result_file_of_the_script_brings_its_own_verdicts(tmp_path):
    file = tmp_path / "result.json"
    codes = ["1", "0", "2", "1", "2", "1", "0"]
    rows = [
        {**r, "model_prediction": "Yes", "gpt4v_output_gpt_check": code, "same": "1"}
        for r, code in zip(ROWS, codes, strict=True)
    ]
    file.write_text(json.dumps(rows), encoding="utf-8")
    found = score("hallusionbench", file, file, "official")
    assert found.metrics["a_acc"] == round(100 * 4 / 7, 4) / 100  # unclear is right without an image
    assert found.notes == ("judged by gpt4v_output",)


def test_rows_that_are_no_questions_are_refused():
    with pytest.raises(DataError, match="questions, row 1: no visual_input"):
        score("hallusionbench", [{k: v for k, v in ROWS[0].items() if k != "visual_input"}], [])
    with pytest.raises(DataError, match="expected 0 for no or 1 for yes"):
        score("hallusionbench", [{**ROWS[0], "gt_answer": "yes"}], [])


def test_the_public_file_has_its_two_views(bench_data):
    file = bench_data / "hallusionbench" / "HallusionBench.json"
    samples = load_samples("hallusionbench", file)
    assert len(samples) == 1129
    assert sum(not sample.images for sample in samples) == 178
    assert len(load_samples("hallusionbench", file, view="image")) == 951
    said = [{"id": s.id, "text": f"{s.target.capitalize()}, it is."} for s in samples]
    found = score("hallusionbench", file, said, resamples=5)
    assert {found.metrics[name] for name in ("a_acc", "f_acc", "q_acc", "easy_a_acc", "hard_a_acc")} == {1.0}
    assert found.undefined["fp_ratio"] == "no answer is wrong"
