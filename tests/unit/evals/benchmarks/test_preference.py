"""Preference accuracy from numbers, win rates from a judge's preferences."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals import load_samples, score

PAIRS = [
    {
        "id": f"p{n}",
        "images": [f"{n // 2}.jpg"],
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
        "chosen": "A dog on a sofa." if n % 2 else "A dog.",
        "rejected": "A cat in a hat.",
    }
    for n in range(4)
]


def test_accuracy_by_hand():
    """Won, lost, tied and not finite: 1 of 4. Per token the first is lost, too."""
    rows = [
        {"id": "p0", "chosen": -4.0, "rejected": -5.0, "chosen_len": 2, "rejected_len": 5},
        {"id": "p1", "chosen": -6.0, "rejected": -5.0, "chosen_len": 6, "rejected_len": 5},
        {"id": "p2", "chosen": -5.0, "rejected": -5.0, "chosen_len": 5, "rejected_len": 5},
        {"id": "p3", "chosen": float("nan"), "rejected": -5.0},
    ]
    found = score("preference", PAIRS, rows)
    assert found.metrics["accuracy"] == 0.25
    assert found.metrics["tie_rate"] == 0.25
    assert found.metrics["mean_margin"] == pytest.approx(0)
    assert found.metrics["accuracy_per_token"] == 0
    assert (found.n, found.n_unparsed) == (4, 1)
    assert found.notes == (
        "compared by logp",
        "1 of 4 answers (25.0%) could not be read, and count as the protocol says",
    )
    assert found.metrics["accuracy_chosen_shorter"] == 0.5


def test_pairs_may_have_the_format_of_another_suite(tmp_path):
    said = {"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A dog."}
    swift = {"id": "s", "messages": list(said), "rejected_response": "A cat.", "images": ["1.jpg"]}
    (tmp_path / "swift.jsonl").write_text(json.dumps(swift) + "\n")
    (sample,) = load_samples("preference", tmp_path / "swift.jsonl")
    assert (sample.id, sample.target, sample.images[0].path) == ("s", ("A dog.", "A cat."), "1.jpg")
    del swift["id"]
    (tmp_path / "swift.jsonl").write_text(json.dumps(swift) + "\n")
    assert [sample.id for sample in load_samples("preference", tmp_path / "swift.jsonl")] == ["swift:1"]
    (tmp_path / "odd.jsonl").write_text(json.dumps(swift) + "\n" + json.dumps({"id": "x", "better": "A dog."}) + "\n")
    with pytest.raises(DataError, match=r"odd.jsonl, row 2: a row with the keys better, id fits no known format"):
        load_samples("preference", tmp_path / "odd.jsonl")


def test_pairs_with_videos_are_refused_by_id():
    film = {**PAIRS[0], "id": "film", "images": [], "prompt": "What is it?", "videos": ["a.mp4"]}
    canonical = {**film, "prompt": [{"role": "user", "content": [{"type": "video"}]}]}
    for row in (film, canonical):
        with pytest.raises(DataError, match=r"pair 'film' has videos, and this benchmark shows images only"):
            load_samples("preference", [PAIRS[1], row])


def test_true_and_false_are_no_log_probs():
    rows = [{"id": pair["id"], "chosen": True, "rejected": False} for pair in PAIRS]
    found = score("preference", PAIRS, rows)
    assert (found.metrics["accuracy"], found.n_unparsed) == (None, 4)
    assert found.undefined["accuracy"] == "no answer could be read"


def test_the_reference_decides_where_it_is_known():
    rows = [{"id": p["id"], "chosen": -9.0, "rejected": -5.0, "ref_chosen": -12.0, "ref_rejected": -6.0} for p in PAIRS]
    found = score("preference", PAIRS, rows)
    assert found.metrics["accuracy"] == 1
    assert found.metrics["mean_margin"] == 2
    assert score("preference", PAIRS, rows, by="logp").metrics["accuracy"] == 0
    with pytest.raises(ConfigError, match="by=score: no answer row has the numbers"):
        score("preference", PAIRS, rows, by="score")


def test_the_last_step_of_a_runs_held_out_pairs_counts(tmp_path):
    file = tmp_path / "pairs_eval.parquet"
    names = [p["id"] for p in PAIRS]
    columns = {
        "step": [1] * 4 + [2] * 4,
        "pair_id": names * 2,
        "rewards/chosen": [0.0] * 4 + [1.0, 1.0, 1.0, -1.0],
        "rewards/rejected": [1.0] * 4 + [0.0] * 4,
    }
    pq.write_table(pa.table(columns), file)
    found = score("preference", PAIRS, file)
    assert found.metrics["accuracy"] == 0.75
    assert found.notes == ("compared by reward",)


def test_scores_of_a_reward_model_are_read():
    rows = [{"id": p["id"], "score_chosen": n, "score_rejected": 1.5} for n, p in enumerate(PAIRS)]
    assert score("preference", PAIRS, rows).metrics["accuracy"] == 0.5


def test_what_is_no_pair_or_no_number_is_refused():
    demonstration = {key: value for key, value in PAIRS[0].items() if key != "rejected"}
    with pytest.raises(DataError, match="'p0' has no rejected answer"):
        score("preference", [demonstration], [])
    with pytest.raises(DataError, match="answers, row 1: expected numbers"):
        score("preference", PAIRS[:1], [{"id": "p0", "text": "The first one."}])


# --- win rate --------------------------------------------------------------------------------------------------------

REFERENCES = [{"instruction": f"Tell {n}.", "output": "x" * 100, "dataset": "d"} for n in range(40)]


def test_win_rate_by_hand_and_the_file_of_the_judge(tmp_path):
    outputs = [{"instruction": row["instruction"], "output": "y" * 100, "generator": "m"} for row in REFERENCES]
    notes = [
        {"instruction": row["instruction"], "output_1": "", "output_2": "", "preference": 2.0 if n < 30 else 1.0}
        for n, row in enumerate(REFERENCES)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(notes), encoding="utf-8")
    found = score("win_rate", REFERENCES, outputs, verdicts=tmp_path / "annotations.json")
    assert found.metrics["win_rate"] == found.metrics["lc_win_rate"] == 0.75, "no length to control for"
    assert "own length control" in found.notes[1]


def test_length_control_takes_away_what_only_length_explains():
    """Long answers win always and short ones never: at equal length neither side is better."""
    answers = [{"id": n, "text": "y" * (150 if n % 4 else 50)} for n in range(40)]
    told = [{"id": n, "preference": float(n % 4 > 0), "judge": "j"} for n in range(40)]
    found = score("win_rate", REFERENCES, answers, verdicts=told)
    assert found.metrics["win_rate"] == 0.75
    assert found.metrics["lc_win_rate"] == pytest.approx(0.5)
    assert found.metrics["longer_share"] == 0.75


def test_a_win_rate_needs_references_and_verdicts():
    answers = [{"id": n, "text": "y"} for n in range(40)]
    with pytest.raises(EvalIncompleteError, match="needs a judge's verdicts"):
        score("win_rate", REFERENCES, answers)
    with pytest.raises(DataError, match="40 questions have no reference answer"):
        score("win_rate", [{"prompt": f"{n}"} for n in range(40)], answers, verdicts=[])
    with pytest.raises(DataError, match=r"preference is 1\.5"):
        score("win_rate", REFERENCES, answers, verdicts=[{"id": 0, "preference": 1.5}])
