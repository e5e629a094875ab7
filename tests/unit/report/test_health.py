from __future__ import annotations

import json

import pytest

from mmpref.report.cautions import cautions
from mmpref.report.health.checks import checks
from mmpref.report.health.held_out import held_out_table
from mmpref.report.health.verdicts import RULES
from mmpref.report.runs import load_runs
from mmpref.report.trained_on import trained_on_section


def pair_rows(count, *, step, chosen=0.0, length=lambda number: 10, margin=0.5):
    return [
        {
            "step": step,
            "pair_id": f"p{number}",
            "logps/chosen": -6.0 + chosen,
            "ref_logps/chosen": -6.0,
            "logps/rejected": -9.0 - 0.5,
            "ref_logps/rejected": -9.0,
            "len/chosen": float(length(number)),
            "len/rejected": 10.0,
            "rewards/margins": margin * (1 + (number % 5)) if margin else 0.0,
            "rewards/accuracies": float(number % 10 > 0),
        }
        for number in range(count)
    ]


@pytest.fixture
def made(folders, tmp_path):
    def make(name, *, log=(), rows=(), manifest=None, recipe="loss:\n  beta: 0.1\n"):
        run = folders.write_run(tmp_path / name, log=log, recipe=recipe)
        if rows:
            folders.write_pairs(run / "pairs_eval.parquet", rows)
        if manifest:
            file = run / "manifest.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **manifest}))
        return run

    return make


def of(run):
    return checks(load_runs([run])[0])


def test_a_run_with_nothing_has_every_check_and_none_is_bad(made):
    found = of(made("bare"))
    assert list(found) == list(RULES)
    assert {name for name, verdict in found.items() if verdict.status == "unknown"} > {
        "chosen answers",
        "reward margin",
    }
    assert not any(verdict.status == "bad" for verdict in found.values())


@pytest.mark.parametrize(("chosen", "status"), [(0.2, "ok"), (-0.49, "ok"), (-0.6, "look"), (-3.1, "bad")])
def test_chosen_answers_that_fall_are_seen_by_the_token(made, chosen, status):
    rows = pair_rows(4, step=0) + pair_rows(4, step=9, chosen=chosen)  # of ten tokens each
    assert of(made("run", rows=rows))["chosen answers"].status == status


def test_kl_is_of_samples_only_and_names_its_estimator(made, folders):
    log = folders.preference_log()
    without = of(made("without", log=log))["KL to the reference"]
    assert without.status == "unknown"
    assert "which is not the KL: chosen -0.10, rejected -0.70" in without.reason
    line = {"step": 65, "samples/kl_k1": 5.5, "samples/kl_k3": 6.0, "samples/len": 10.0, "samples/n": 8}
    sampled = of(made("sampled", log=[*log, line]))["KL to the reference"]
    assert sampled.status == "bad"  # 0.6 nats a token
    assert "6.00 nats an answer by k3, 5.50 by k1, on 8 sampled answers (0.600 a token)" in sampled.reason


def test_sampled_answers_without_a_kl_are_not_called_missing(made, folders):
    line = {"step": 65, "samples/len": 10.0, "samples/n": 8}
    found = of(made("run", log=[*folders.preference_log(), line]))["KL to the reference"]
    assert found.status == "unknown"
    assert "no KL of the sampled answers was measured" in found.reason
    assert "no answers were sampled" not in found.reason


@pytest.mark.parametrize(("rise", "status"), [(0.001, "look"), (0.2, "bad")])
def test_a_held_out_loss_within_the_noise_of_its_pairs_is_not_bad(made, rise, status):
    losses = {0: [0.7] * 20, 9: [0.7 + rise + (0.1 if number % 2 else -0.1) for number in range(20)]}
    rows = [row | {"loss": losses[step][at]} for step in (0, 9) for at, row in enumerate(pair_rows(20, step=step))]
    log = [{"step": step, "eval_loss": sum(values) / 20} for step, values in losses.items()]
    found = of(made("run", log=log, rows=rows))["held-out loss"]
    assert found.status == status
    assert ("within the noise" in found.reason) == (status == "look")
    assert of(made("without", log=log))["held-out loss"].status == "bad"  # no pairs, no noise to go by


def test_accuracy_and_margin_have_intervals_over_pairs(made):
    found = of(made("run", rows=pair_rows(100, step=0, margin=0) + pair_rows(100, step=9)))
    assert found["reward accuracy"].status == "ok"
    assert "90.0 % [" in found["reward accuracy"].reason
    assert found["reward margin"].status == "ok"
    assert of(made("worse", rows=pair_rows(100, step=9, margin=-0.5)))["reward margin"].status == "bad"
    assert of(made("heart", rows=pair_rows(100, step=9, margin=9.0)))["reward margin"].status == "bad"


def test_length_bias_is_the_correlation_of_margin_and_length(made):
    follows = of(made("follows", rows=pair_rows(100, step=9, length=lambda n: 10 + n % 5)))["length bias"]
    assert (follows.status, "correlation +1.00 over 100" in follows.reason) == ("bad", True)
    against = of(made("against", rows=pair_rows(100, step=9, length=lambda n: 10 - n % 5)))["length bias"]
    assert (against.status, "correlation -1.00" in against.reason) == ("bad", True)
    assert of(made("free", rows=pair_rows(100, step=9, length=lambda n: 10 + n // 5 % 2)))["length bias"].status == "ok"
    assert of(made("few", rows=pair_rows(20, step=9, length=lambda n: 10 + n)))["length bias"].status == "unknown"


def test_loss_gradient_alarms_and_losses_of_data(made):
    log = [
        {"step": 0, "eval_loss": 1.0},
        *({"step": step, "loss": 1.0, "grad_norm": 30.0 if step == 5 else 1.0} for step in range(1, 10)),
        {"step": 4, "eval_loss": 0.5},
        {"step": 5, "event": "alarm/chosen_falls", "message": "it falls"},
        {"step": 9, "eval_loss": 0.7},
    ]
    facts = {"quarantined": 1, "pairs": 99, "fit": {"answers_cut": {"pairs": 20}}, "skipped_steps": [3]}
    found = of(made("run", log=log, manifest=facts))
    expected = {
        "held-out loss": ("look", "lowest 0.5 at step 4"),
        "gradient norm": ("look", "largest 30"),
        "alarms": ("look", "chosen_falls (step 5)"),
        "quarantine": ("look", "1 rows (1 %)"),
        "cut answers": ("bad", "20 pairs (20 %)"),
        "updates left out": ("bad", "1 were not finite (step 3)"),
        "end": ("ok", "complete"),
    }
    assert {name: found[name].status for name in expected} == {name: status for name, (status, _) in expected.items()}
    assert all(words in found[name].reason for name, (_, words) in expected.items())


def test_held_out_pairs_are_compared_by_id_and_other_pairs_are_not(made):
    first = made("first", rows=pair_rows(50, step=9))
    better = made("better", rows=pair_rows(50, step=9, chosen=1.0))
    others = made("others", rows=pair_rows(50, step=9, length=lambda n: 11))
    beta = made("beta", rows=pair_rows(50, step=9), recipe="loss:\n  beta: 0.5\n")
    table = held_out_table(load_runs([first, better, others, beta]))
    cells = {row.name: row.cells for row in table.rows}
    assert cells["log-prob of chosen answers"][1].difference == pytest.approx(1.0)
    assert cells["log-ratio margin"][1].difference == pytest.approx(1.0)
    assert all(row.cells[2].difference is None for row in table.rows)
    assert any("50 of 50 held-out pairs with the same id have other lengths" in note for note in table.notes)
    assert cells["reward margin"][3].difference is None  # another beta is another unit
    assert cells["log-ratio margin"][3].difference == 0


def test_other_data_and_missing_logs_are_said_at_the_top(made, folders):
    a = made("a", log=folders.preference_log(), manifest={"data": {"x.jsonl": "1" * 64}})
    b = made("b", manifest={"data": {"y.jsonl": "2" * 64}})
    said = cautions(load_runs([a, b]), ["a note"])
    assert any("b: trained on other data than a" in words for words in said)
    assert any(words.startswith("b: metrics.jsonl is missing") for words in said)
    assert sum("no pair log (pairs.parquet)" in words for words in said) == 2
    assert said[-1] == "a note"
    start = made("start", manifest={"data": {"y.jsonl": "2" * 64}})
    child = made("child", manifest={"data": {"x.jsonl": "1" * 64}}, recipe=f"model:\n  path: {start}/model\n")
    assert not any("other data" in words for words in cautions(load_runs([start, child]), []))


def test_what_was_trained_marks_what_differs(made):
    facts = {"pairs": 1560, "parameters": 2_000_000, "trained_parameters": 500_000, "loss_line": "loss: dpo, beta 0.1"}
    a = made("a", manifest=facts, recipe="seed: 0\nloss:\n  beta: 0.1\ntrain:\n  learning_rate: 1e-5\n")
    b = made("b", manifest=facts, recipe="seed: 0\nloss:\n  beta: 0.1\ntrain:\n  learning_rate: 2e-5\n")
    html = str(trained_on_section(load_runs([a, b])))
    rows = dict(
        zip(("parameters", "learning rate"), [html.index("parameters<"), html.index("learning rate<")], strict=True)
    )
    assert "2 M, 500 k of them trained (25 %)" in html
    assert html.count("dpo, beta 0.1") == 1  # what all share is written once
    assert 'class="differs"' in html[rows["learning rate"] - 160 : rows["learning rate"]]
    assert 'class="differs"' not in html[rows["parameters"] - 60 : rows["parameters"]]
    assert "train.learning_rate" in html


def test_plain_sft_gets_no_verdict_on_rewards_that_it_does_not_compare(made):
    rows = pair_rows(20, step=10, margin=-0.5)
    compared = of(made("dpo", rows=rows, manifest={"loss": {"base": "dpo"}}))
    single = of(made("sft", rows=rows, manifest={"loss": {"base": "sft"}}))
    assert compared["reward margin"].status == "bad"
    assert {name: single[name].status for name in ("reward margin", "reward accuracy")} == dict.fromkeys(
        ("reward margin", "reward accuracy"), "unknown"
    )
