"""Numbers equal those of the public tools, to the last digit, on answers of every odd shape.

The files in tests/fixtures/evals hold made-up questions and answers with the numbers that the tools' own code gave for
them; ``source`` names repository, commit and file. Where a tool needs models that cannot be had here (taggers, word
vectors, a judge), both sides got the same stand-ins.
"""

import re

import pytest

from mmpref.evals import score
from mmpref.evals.text.options import options_of
from tests.unit.evals.cases import amber_folder, load


def check(found, expected, *, exact=1e-12):
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, abs=exact, rel=0)


def dice(first, second):
    """The stand-in for word vectors: shared pairs of neighbouring letters."""
    one, two = ({word[i : i + 2] for i in range(len(word) - 1)} for word in (first, second))
    return 2 * len(one & two) / (len(one) + len(two)) if one or two else 0.0


@pytest.mark.parametrize("protocol", ["official", "lmms_eval", "vlmevalkit"])
@pytest.mark.parametrize("benchmark", ["pope", "mme"])
def test_yes_or_no_benchmarks_equal_the_tools(benchmark, protocol):
    case = load(benchmark)
    assert len(case["answers"]) >= 300
    check(
        score(benchmark, case["questions"], case["answers"], protocol, resamples=20),
        case["expected"][protocol],
        exact=1e-9,
    )


@pytest.mark.parametrize("options", [{}, {"pope": "pope"}])
def test_repope_equals_the_script_under_the_labels_of_both(options):
    case = load("repope")
    options = {name: case[key] for name, key in options.items()}
    expected = {name: value for name, value in case["expected"]["official"].items() if options or "/pope_" not in name}
    check(score("repope", case["questions"], case["pope_answers"], "official", resamples=20, **options), expected)
    assert len(expected) == (30 if options else 15)


@pytest.mark.parametrize("protocol", ["official", "lmms_eval", "vlmevalkit"])
def test_naturalbench_equals_the_scripts(protocol):
    case = load("naturalbench")
    assert len(case["answers"]) >= 300
    found = score("naturalbench", case["questions"], case["answers"], protocol, resamples=20)
    check(found, case["expected"][protocol])


def test_dash_b_equals_the_script():
    case = load("dash_b")
    assert len(case["answers"]) >= 300
    check(score("dash_b", case["questions"], case["answers"], "official", resamples=20), case["expected"]["official"])


@pytest.mark.parametrize("protocol", ["official", "lmms_eval", "vlmevalkit"])
def test_amber_equals_the_tools(protocol, tmp_path):
    case = load("amber")
    found = score(
        "amber",
        amber_folder(case, tmp_path / "data"),
        case["answers"],
        protocol,
        noun_extractor=lambda text: re.findall("[A-Za-z]+", text),
        similarity=dice,
        resamples=20,
    )
    check(found, case["expected"][protocol])


@pytest.mark.parametrize("protocol", ["official", "lmms_eval"])
def test_hallusionbench_equals_the_scripts_when_a_judge_decides(protocol):
    case = load("hallusionbench")
    found = score(
        "hallusionbench", case["questions"], case["answers"], protocol, verdicts=case["verdicts"], resamples=20
    )
    check(found, case["expected"][protocol])


@pytest.mark.parametrize(("protocol", "key"), [("lmms_eval", "lmms_eval_rule"), ("vlmevalkit", "vlmevalkit")])
def test_hallusionbench_equals_the_tools_rules(protocol, key):
    case = load("hallusionbench")
    found = score("hallusionbench", case["questions"], case["answers"], protocol, resamples=20)
    check(found, case["expected"][key])


def test_mmhal_equals_the_script_on_the_judges_own_words():
    case = load("mmhal")
    found = score("mmhal", case["questions"], case["answers"], "official", verdicts=case["verdicts"], resamples=20)
    check(found, case["expected"]["official"])


def test_object_halbench_equals_the_script_when_the_words_are_given():
    case = load("object_halbench")
    found = score(
        "object_halbench",
        case["questions"],
        case["answers"],
        "official",
        verdicts=case["verdicts"],
        refined=True,
        synonyms=case["synonyms"],
        resamples=20,
    )
    check(found, case["expected"]["official"])


@pytest.mark.parametrize("protocol", ["official", "lmms_eval"])
def test_chair_equals_the_scripts_when_the_tokens_are_given(protocol):
    case = load("chair")
    assert len(case["answers"]) >= 300
    found = score(
        "chair",
        case["questions"],
        case["answers"],
        protocol,
        synonyms=case["synonyms"],
        tokenize=lambda caption: caption.lower().split(),
        resamples=20,
    )
    check(found, case["expected"][protocol])


def test_chair_equals_the_whole_script_on_these_captions():
    case = load("chair")
    found = score("chair", case["questions"], case["answers"], "official", synonyms=case["synonyms"], resamples=20)
    check(found, case["expected"]["official_whole"])


@pytest.mark.parametrize("protocol", ["official", "lmms_eval"])
def test_crpe_equals_the_tools(protocol):
    case = load("crpe")
    assert len(case["answers"]) >= 400
    check(score("crpe", case["questions"], case["answers"], protocol, resamples=20), case["expected"][protocol])


@pytest.mark.parametrize("labels", ["vlmevalkit", "vlmevalkit_letters"])
def test_crpe_equals_vlmevalkit_whatever_its_table_has_as_the_right_answer(labels):
    case = load("crpe")
    table = []
    for row in case["questions"]:
        letter = row["correct_option"]
        answer = f"{letter}. {options_of(row['text'])[letter]}" if labels == "vlmevalkit" else letter
        shown = {"index": row["question_id"], "question": row["text"], "image_path": row["image"]}
        table.append({**shown, "answer": answer, "category": row["category"]})
    check(score("crpe", table, case["answers"], "vlmevalkit", resamples=20), case["expected"][labels])


@pytest.mark.parametrize("protocol", ["official", "lmms_eval", "vlmevalkit"])
def test_mmvp_equals_the_tools_with_a_scripted_judge(protocol):
    case = load("mmvp")
    assert len(case["answers"]) >= 300
    found = score("mmvp", case["questions"], case["answers"], protocol, verdicts=case["verdicts"], resamples=20)
    check(found, case["expected"][protocol])


def test_finer_equals_the_script():
    case = load("finer")
    assert len(case["answers"]) >= 300
    check(score("finer", case["questions"], case["answers"], "official", resamples=20), case["expected"]["official"])
