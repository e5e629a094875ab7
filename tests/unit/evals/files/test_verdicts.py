"""Verdict rows: what is written is read, what is wrong is named, too many missing refuse the number."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.evals.files.verdicts import Verdict, read_verdicts, usable

ONE_OF_EACH = [
    Verdict(id="a", judge="j", score=0),
    Verdict(id="b", judge="j", verdict="unclear", same=False),
    Verdict(id="c", judge="j", objects=()),
    Verdict(id="d", judge="j", preference=0.0),
    Verdict(id="e", judge="j", error="timeout"),
]


@pytest.mark.parametrize("verdict", ONE_OF_EACH, ids=lambda verdict: verdict.id)
def test_a_verdict_is_read_as_it_was_written(verdict, tmp_path):
    file = tmp_path / "verdicts.jsonl"
    file.write_text(json.dumps(verdict.row()) + "\n", encoding="utf-8")
    kind = next((name for name in ("verdict", "objects", "preference") if getattr(verdict, name) is not None), "score")
    assert read_verdicts(file, kind) == {verdict.id: verdict}
    assert read_verdicts([verdict], kind) == {verdict.id: verdict}


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("score", {"id": 1, "score": 7}, "score is 7"),
        ("score", {"id": 1, "score": True}, "score is True"),
        ("score", {"id": 1}, "score is None"),
        ("verdict", {"id": 1, "verdict": "right"}, "verdict is 'right'"),
        ("verdict", {"id": 1, "verdict": "correct", "same": "yes"}, "same is 'yes'"),
        ("objects", {"id": 1, "objects": "dog"}, "objects is 'dog'"),
        ("score", {"id": 1, "score": 1, "judge": 3}, "judge is 3"),
        ("score", {"score": 1}, "no id"),
    ],
)
def test_a_bad_row_is_named(kind, row, message):
    with pytest.raises(DataError, match=f"verdicts, row 1: .*{message}"):
        read_verdicts([row], kind)


def test_an_id_twice_is_refused():
    with pytest.raises(DataError, match=r"1 ids appear more than once: '1'; .* verdicts, row 1 and verdicts, row 2"):
        read_verdicts([{"id": 1, "score": 1}, {"id": "1", "score": 2}], "score")


def test_exactly_one_value_is_given():
    with pytest.raises(ValueError, match="got \\[\\]"):
        Verdict(id="a", judge="j")
    with pytest.raises(ValueError, match="'score', 'error'"):
        Verdict(id="a", judge="j", score=1, error="x")


@given(st.integers(1, 400), st.data())
def test_two_percent_may_be_missing_and_no_more(total, data):
    num_missing = data.draw(st.integers(0, total))
    asked = [str(n) for n in range(total)]
    rows = [{"id": name, "score": 3} for name in asked[num_missing:]]
    rows += [{"id": name, "error": "hung up"} for name in asked[: num_missing // 2]]
    if num_missing > 0.02 * total:
        with pytest.raises(EvalIncompleteError, match=f"{num_missing} of {total} answers have no verdict"):
            usable(read_verdicts(rows, "score"), asked)
    else:
        good, missing = usable(read_verdicts(rows, "score"), asked)
        assert (len(good), len(missing)) == (total - num_missing, num_missing)


def test_a_verdict_on_nothing_is_refused():
    with pytest.raises(DataError, match="1 verdicts have an id that no question has: 'z'"):
        usable(read_verdicts([{"id": "z", "score": 1}], "score"), ["a"])
