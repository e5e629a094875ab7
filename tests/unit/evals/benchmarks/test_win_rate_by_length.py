"""Win rates at equal length and by length difference, from verdicts and from scores."""

import json

import pytest

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.evals import score
from mmpref.evals.benchmarks.length_bins import bin_of, length_bins

REFERENCES = [{"instruction": f"Tell {n}.", "output": "x" * 100} for n in range(40)]


def candidates(text, value, number, scorer="objects"):
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"What is {number}?"}]}]
    scores = [{"scorer": scorer, "version": "1", "scale": [0, 1], "raw": value}]
    answers = [{"text": text, "seed": 1, "score": value, "scores": scores}, {"text": "another", "score": 9.0}]
    return {"id": f"p{number}", "images": ["a.png"], "prompt": prompt, "candidates": answers}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_metrics_by_length_by_hand():
    """10 shorter that lose, 10 about as long of which half win, 20 longer of which 15 win."""
    lengths = [50] * 10 + [105] * 10 + [150] * 20
    won = [0.0] * 10 + [1.0, 0.0] * 5 + [1.0] * 15 + [0.0] * 5
    answers = [{"id": n, "text": "y" * length} for n, length in enumerate(lengths)]
    found = score("win_rate", REFERENCES, answers, verdicts=[{"id": n, "preference": y} for n, y in enumerate(won)])
    metrics = found.metrics
    assert [metrics[f"win_rate_{size}"] for size in ("shorter", "similar", "longer")] == [0.0, 0.5, 0.75]
    assert metrics["win_rate"] == 0.5
    assert metrics["lc_win_rate_local"] < 0.5
    assert metrics["lc_minus_wr"] == pytest.approx(metrics["lc_win_rate_local"] - 0.5)
    assert found.intervals["win_rate_shorter"] == pytest.approx((0, 1 - 0.025**0.1))
    assert "not AlpacaEval's" in found.notes[1]
    named, parts = length_bins(found.items)
    assert [(one.label, one.n, one.rate) for one in named] == [
        ("shorter", 10, 0.0),
        ("similar", 10, 0.5),
        ("longer", 20, 0.75),
    ]
    assert sum(one.n for one in parts) == 40
    assert [(one.low, one.high) for one in parts] == [(-50, -50), (5, 5), (50, 50)]


def test_equal_lengths_are_said():
    answers = [{"id": n, "text": "y" * 90} for n in range(40)]
    verdicts = [{"id": n, "preference": float(n < 30)} for n in range(40)]
    found = score("win_rate", REFERENCES, answers, verdicts=verdicts)
    assert found.metrics["lc_win_rate_local"] == pytest.approx(0.75)
    assert any("no length to control for" in note for note in found.notes)


def test_few_answers_have_no_curve_and_the_reason():
    answers = [{"id": n, "text": "y" * (90 + n)} for n in range(10)]
    verdicts = [{"id": n, "preference": float(n < 5)} for n in range(10)]
    found = score("win_rate", REFERENCES[:10], answers, verdicts=verdicts)
    assert found.metrics["lc_win_rate_local"] is None
    assert "too few" in found.undefined["lc_win_rate_local"]
    assert found.metrics["win_rate"] == 0.5


def test_bins_are_the_same_for_both_sides():
    mirror = {"shorter": "longer", "similar": "similar", "longer": "shorter"}
    for one, other in [(100, 110), (100, 112), (0, 0), (0, 1), (90, 100), (89, 100)]:
        assert bin_of(one, other) == mirror[bin_of(other, one)]
    assert bin_of(90, 100) == "similar"
    assert bin_of(89, 100) == "shorter"


def test_two_files_of_scored_candidates_need_no_judge(tmp_path):
    first = written(tmp_path / "a.jsonl", [candidates("x" * 40, 0.5, n) for n in range(24)])
    marks = [1.0, 0.5, 0.0]
    second = written(tmp_path / "b.jsonl", [candidates("y" * 60, marks[n % 3], n) for n in range(24)])
    found = score("win_rate", first, second)
    assert found.n == 24
    assert found.metrics["win_rate"] == pytest.approx(0.5)
    assert [item["preference"] for item in found.items[:3]] == [1.0, 0.5, 0.0]
    assert found.notes[0] == "judged by scores (objects), the higher wins; no model compared them"
    back = score("win_rate", second, first)
    assert [item["preference"] for item in back.items[:3]] == [0.0, 0.5, 1.0]


def test_rows_with_a_score_need_no_judge_either():
    questions = [{"id": f"{n}", "prompt": f"Say {n}.", "output": "x", "score": 1} for n in range(20)]
    answers = [{"id": f"{n}", "text": "y", "score": 2 if n < 15 else 0} for n in range(20)]
    assert score("win_rate", questions, answers).metrics["win_rate"] == 0.75


def test_scores_that_are_missing_or_of_others_are_told(tmp_path):
    first = written(tmp_path / "a.jsonl", [candidates("x", 0.5, n) for n in range(24)])
    others = written(tmp_path / "b.jsonl", [candidates("y", 0.5, n, scorer="gain") for n in range(24)])
    with pytest.raises(DataError, match="its score is by gain, that of the question by objects"):
        score("win_rate", first, others)
    some = written(tmp_path / "c.jsonl", [candidates("y", None if n < 3 else 0.7, n) for n in range(24)])
    with pytest.raises(EvalIncompleteError, match=r"3 of 24 answers have no verdict.*has no score"):
        score("win_rate", first, some)
    with pytest.raises(DataError, match=r"a\.jsonl, row 1: candidates is"):
        score("win_rate", written(tmp_path / "a.jsonl", [{"id": "1", "candidates": []}]), some)


def test_verdicts_that_are_given_go_before_scores():
    questions = [{"id": f"{n}", "prompt": f"Say {n}.", "output": "x", "score": 1} for n in range(20)]
    answers = [{"id": f"{n}", "text": "y", "score": 2} for n in range(20)]
    verdicts = [{"id": f"{n}", "preference": 0.0, "judge": "j"} for n in range(20)]
    assert score("win_rate", questions, answers, verdicts=verdicts).metrics["win_rate"] == 0
