"""A result says what of the answers was empty, cut or not read; where nothing was read there is no number."""

import json
from dataclasses import replace

import pytest

from mmpref.cli.main import main
from mmpref.errors import EvalIncompleteError
from mmpref.evals import BENCHMARKS, score, score_beside
from mmpref.evals.unread import WHY, refuse_unread
from tests.unit.evals.cases import NAMES, arguments

POPE = [{"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {n}?", "label": "yes"} for n in range(20)]
TRUTH = {str(n): ["dog", "person"] for n in range(20)}


def answers(*texts, n=20):
    return [{"id": k, "text": texts[k % len(texts)]} for k in range(n)]


def run(name, tmp_path, text, protocol="mmpref"):
    questions, given, options = arguments(name, tmp_path)
    if protocol == "vlmevalkit":
        options.pop("verdicts", None)
    rows = [{"id": answer["id"], "text": text} for answer in given]
    return score(name, questions, rows, protocol, resamples=10, **options)


@pytest.mark.parametrize(
    ("name", "protocol"), [(name, protocol) for name in NAMES for protocol in BENCHMARKS[name].protocols]
)
def test_empty_answers_give_no_number_and_a_note(name, protocol, tmp_path):
    found = run(name, tmp_path, " ", protocol)
    if name not in ("mmhal", "hallusionbench", "object_halbench"):  # which a judge has decided, or may have
        assert set(found.metrics.values()) == {None}
        assert set(found.undefined.values()) == {"all answers are empty"}
        assert not found.intervals
    assert any(note.endswith("answers (100.0%) are empty") for note in found.notes)


@pytest.mark.parametrize("name", ["pope", "mme", "amber", "preference"])
def test_answers_that_nobody_can_read_give_no_number(name, tmp_path):
    """C10: once an accuracy of 0.0000 without a word."""
    if name == "preference":
        pairs = [{"id": str(n), "prompt": "p", "chosen": "a", "rejected": "b"} for n in range(8)]
        found = score(name, pairs, [{"id": str(n), "chosen": None, "rejected": 1.0} for n in range(8)])
    elif name == "amber":
        questions, given, _ = arguments(name, tmp_path)
        asked = [answer["id"] for answer in given if answer["id"] > 120]
        found = score(name, questions, [{"id": k, "text": "hm"} for k in asked], subset=True, resamples=10)
    else:
        found = run(name, tmp_path, "hm")
    assert (set(found.metrics.values()), set(found.undefined.values())) == ({None}, {WHY})
    assert any("(100.0%) could not be read" in note for note in found.notes)


def test_a_split_of_which_nothing_was_read_has_no_number():
    splits = {"random": POPE[:10], "popular": POPE[10:]}
    found = score("pope", splits, [{"id": k, "text": "yes" if k < 10 else "hm"} for k in range(20)], resamples=10)
    assert (found.metrics["random/accuracy"], found.metrics["popular/accuracy"]) == (1, None)
    assert found.metrics["accuracy"] == 0.5


def test_the_tools_keep_their_zero_where_there_are_words():
    """lmms-eval reads only the bare words; that is its rule, and its number."""
    found = score("pope", POPE, answers("Yes, there is one."), "lmms_eval", resamples=10)
    assert found.metrics["accuracy"] == 0
    assert "20 of 20 answers (100.0%) could not be read, and count as the protocol says" in found.notes


@pytest.mark.parametrize(("odd", "noted"), [(1, False), (2, True)])
def test_a_share_of_unread_answers_is_noted_above_five_percent(odd, noted):
    rows = [{"id": k, "text": "hm" if k < odd else "yes"} for k in range(20)]
    notes = " ".join(score("pope", POPE, rows, resamples=10).notes)
    assert ("could not be read" in notes) == noted


def test_cut_answers_are_counted():
    """D5: what a server says of why the answer ends."""
    rows = [{"id": k, "text": "yes", "finish_reason": "length" if k < 3 else "stop"} for k in range(20)]
    assert score("pope", POPE, rows, resamples=10).notes == (
        "3 of 20 answers (15.0%) were cut by the limit of new tokens",
    )
    prompted = [{**row, "image": f"{row['id']}.jpg", "question": f"Is there a {row['id']}?"} for row in rows]
    for row in prompted:
        del row["id"]
    assert "3 of 20" in score("pope", POPE, prompted, resamples=10).notes[0]


def test_captions_that_name_nothing_give_no_number():
    """In another language every caption is free of hallucination, and the rate was a perfect 0."""
    found = score("chair", TRUTH, answers("Ein Hund und ein Mann."), resamples=10, synonyms="coco")
    assert (found.metrics["chair_s"], found.metrics["chair_i"]) == (None, None)
    assert "20 of 20 answers (100.0%) name no known object" in found.notes
    some = score("chair", TRUTH, answers("A dog.", "Ein Hund.", "Himmel."), resamples=10, synonyms="coco")
    assert some.metrics["chair_s"] == 0
    assert "13 of 20 answers (65.0%) name no known object" in some.notes


@pytest.mark.parametrize(
    ("texts", "code"),
    [(("yes",), 0), (("yes", "hm"), 0), (("hm", "hm", "yes"), 8), (("",), 8), (("hm",), 8)],
)
def test_the_command_ends_with_8_where_most_was_not_read(texts, code, tmp_path, capsys):
    files = {"questions": POPE, "answers": answers(*texts)}
    for name, rows in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["score", "--benchmark", "pope", "--questions", str(tmp_path / "questions")]
    command += ["--answers", str(tmp_path / "answers"), "--out", str(tmp_path / "results.json")]
    assert main(command) == code
    captured = capsys.readouterr()
    assert "answers read as rows of id and text, text under 'text', matched by id" in " ".join(captured.out.split())
    assert ("the numbers say little about the model" in captured.err) == (code == 8)
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["answers_read_as"]
    assert (written["metrics"]["accuracy"] is None) == ("yes" not in texts)


def test_the_official_number_of_empty_answers_is_no_number_either():
    ours, beside = score_beside("pope", POPE, answers(""), resamples=10)
    assert (ours.metrics["accuracy"], beside["official"].metrics["accuracy"]) == (None, None)


@pytest.mark.parametrize("name", ["chair", "object_halbench"])
def test_answers_that_name_nothing_end_with_8_and_say_why(name, tmp_path, capsys):
    """Every caption was "Yes": no metric had a number, and the command ended with 0."""
    items = [{"image_id": n, "question": "What?", "objects": ["dog"]} for n in range(20)]
    truth = {str(n): ["dog"] for n in range(20)}
    (tmp_path / "q.json").write_text(json.dumps(truth if name == "chair" else items), encoding="utf-8")
    command = ["score", "--benchmark", name, "--questions", str(tmp_path / "q.json"), "synonyms=names"]
    command += ["image_name={id}.jpg", "--answers", str(tmp_path / "a.json")]
    for texts, code in ((["Yes"], 8), (["A dog.", *["Yes"] * 3], 0), (["A dog."], 0)):
        rows = [{"image_id": n, "text": texts[n % len(texts)]} for n in range(20)]
        (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
        assert main(command) == code
        said = " ".join(capsys.readouterr().err.split())
        assert ("none of 20 answers names a known object" in said) == (code == 8)


def test_a_result_without_any_number_ends_with_8():
    result = score("pope", POPE, answers("yes"), resamples=10)
    refuse_unread(result)
    none = replace(result, metrics=dict.fromkeys(result.metrics), undefined={"accuracy": "there are no questions"})
    with pytest.raises(
        EvalIncompleteError, match="no metric of pope has a number under protocol mmpref: there are no q"
    ):
        refuse_unread(none)
