"""Alarms: each speaks about what it is for, once, after three lines in a row, and about nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from mmpref.training.trainer.alarms import LENGTH_WINDOW, Alarms, correlation
from mmpref.training.trainer.pair_log import PairLog

HEALTHY = {"loss": 0.6, "logps/chosen": -100.0, "len/chosen": 50.0, "ref_logps/chosen": -98.0,
           "rewards/margins": 0.8, "uni/w_perf": 0.4}  # fmt: skip


def run(lines: list[dict[str, float]], pairs: PairLog | None = None) -> list[tuple[int, str, str]]:
    events: list[tuple[int, str, str]] = []
    alarms = Alarms(pairs or PairLog(), lambda *event: events.append(event))
    for number, line in enumerate(lines, start=1):
        state = TrainerState(global_step=number)
        alarms.on_log(None, state, TrainerControl(), logs=dict(line))  # type: ignore[arg-type]
    return events


@pytest.mark.parametrize(("change", "name", "words"), [
    ({"logps/chosen": -115.0}, "alarm/chosen_falls", "0.34 nats a token below the reference's"),
    ({"uni/w_perf": 0.004}, "alarm/weights_vanish", "w_perf is 0.0040"),
    ({"rewards/margins": 31.0}, "alarm/margins_explode", "margin is 31.0"),
])  # fmt: skip
def test_an_alarm_speaks_once_after_three_lines_in_a_row(change: dict[str, float], name: str, words: str) -> None:
    bad = HEALTHY | change
    events = run([HEALTHY, bad, bad, HEALTHY, bad, bad, bad, bad, bad])
    assert [(step, event) for step, event, _ in events] == [(7, name)]
    assert words in events[0][2]


def test_a_healthy_run_raises_no_alarm() -> None:
    assert run([HEALTHY] * 10) == []


def test_without_a_reference_the_chosen_answers_are_compared_with_the_first_line() -> None:
    plain: dict[str, float] = {"loss": 1.0, "logps/chosen": -50.0, "len/chosen": 50.0}
    fallen = plain | {"logps/chosen": -70.0}
    assert [event for _, event, _ in run([plain, fallen, fallen, fallen])] == ["alarm/chosen_falls"]
    risen = plain | {"logps/chosen": -30.0}
    assert run([plain, risen, risen, risen]) == []


def test_lines_of_an_evaluation_are_not_looked_at() -> None:
    assert run([{"eval_rewards/margins": 90.0, "rewards/margins": 90.0}] * 5) == []


SEEN = HEALTHY | {"image/margin": 0.0, "rewards/chosen": 0.1, "loss/image": 0.69}


def test_an_image_margin_that_grows_as_the_chosen_reward_falls_is_told_with_its_cures() -> None:
    away = SEEN | {"image/margin": 0.3, "rewards/chosen": -0.2}
    event = (6, "alarm/image_by_unlearning")
    for line, cures in (
        ({}, "set loss.anchor.chosen=1, or set loss.image.detach=true"),
        ({"loss/anchor": 0.7}, "raise loss.anchor.chosen, or set loss.image.detach=true"),
        ({"ada/coef_chosen": 1.0}, "set loss.anchor.chosen=1"),
        ({"loss/image": 0.0}, "set loss.anchor.chosen=1"),  # measured only: nothing there to detach
    ):
        found = run([SEEN | line] * 3 + [away | line] * 5)
        assert [(step, name) for step, name, _ in found] == [event]
        assert found[0][2].endswith(f"; {cures}")
        assert "grown by 0.30 and the chosen reward has fallen by 0.30" in found[0][2]
    without = {name: value for name, value in SEEN.items() if not name.startswith(("ref_logps", "logps"))}
    [(_, _, words)] = run([without] * 3 + [without | {"image/margin": 0.3, "rewards/chosen": -0.2}] * 3)
    assert words.endswith("; set loss.image.detach=true")
    [(_, _, words)] = run(
        [without | {"ada/coef_chosen": 1.0}] * 3
        + [without | {"ada/coef_chosen": 1.0, "image/margin": 0.3, "rewards/chosen": -0.2}] * 3
    )
    assert words.endswith("; lower loss.image.weight")
    measured = without | {"loss/image": 0.0}
    [(_, _, words)] = run([measured] * 3 + [measured | {"image/margin": 0.3, "rewards/chosen": -0.2}] * 3)
    assert words.endswith("; set loss.nll_weight=1")


@pytest.mark.parametrize("change", [
    {"image/margin": 0.3, "rewards/chosen": 0.4},  # both grow: what the term is for
    {"image/margin": 0.3, "rewards/chosen": 0.05},
    {"image/margin": 0.05, "rewards/chosen": -0.3},
    {"image/margin": -0.3, "rewards/chosen": -0.3},
])  # fmt: skip
def test_an_image_margin_alone_or_a_falling_reward_alone_raises_nothing(change: dict[str, float]) -> None:
    assert run([SEEN] * 3 + [SEEN | change] * 5) == []


def test_weighted_sums_are_divided_by_their_weights_and_single_answers_may_fall() -> None:
    weighted = HEALTHY | {"logps/chosen": -400.0, "ref_logps/chosen": -380.0, "weights/effective_len": 200.0}
    assert run([weighted] * 5) == []
    fallen = weighted | {"logps/chosen": -450.0}
    [(_, name, words)] = run([fallen] * 5)
    assert name == "alarm/chosen_falls"
    assert "0.35 nats a token" in words
    assert run([HEALTHY | {"logps/chosen": -150.0, "kto/kl": 0.1}] * 5) == []


def _log(margin_of: Any, count: int = LENGTH_WINDOW) -> PairLog:
    log = PairLog()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(5, 100, (count,), generator=generator).float()
    rejected = torch.randint(5, 100, (count,), generator=generator).float()
    noise = torch.randn(count, generator=generator)
    log.add(1, [str(i) for i in range(count)], {
        "rewards/margins": margin_of(chosen - rejected, noise), "len/chosen": chosen, "len/rejected": rejected,
    })  # fmt: skip
    log.flush()
    return log


@pytest.mark.parametrize(("sign", "direction"), [(1, "longer is"), (-1, "shorter is")])
def test_margins_that_follow_length_are_told_with_their_direction(sign: int, direction: str) -> None:
    log = _log(lambda difference, noise: sign * 0.01 * difference + 0.1 * noise)
    events = run([HEALTHY] * 3, log)
    assert [event for _, event, _ in events] == ["alarm/length_drift"]
    assert direction in events[0][2]


def test_margins_that_do_not_follow_length_raise_nothing() -> None:
    assert run([HEALTHY] * 5, _log(lambda difference, noise: noise)) == []
    few = _log(lambda difference, noise: difference, count=20)
    assert run([HEALTHY] * 5, few) == []


def test_the_correlation_is_that_of_torch_and_zero_where_nothing_varies() -> None:
    rows = torch.randn(2, 40, generator=torch.Generator().manual_seed(1))
    assert correlation(rows[0].tolist(), rows[1].tolist()) == pytest.approx(float(torch.corrcoef(rows)[0, 1]), abs=1e-5)
    assert correlation([1.0, 1.0], [0.0, 5.0]) == 0.0


def _resumed(lines: list[dict[str, float]], checkpoint: int) -> list[tuple[int, str, str]]:
    """What is said by a run that goes on from a checkpoint behind the n-th line."""
    events: list[tuple[int, str, str]] = []
    alarms = Alarms(PairLog(), lambda *event: events.append(event))
    history = [{**line, "step": float(number)} for number, line in enumerate(lines[:checkpoint], start=1)]
    state = TrainerState(global_step=checkpoint, log_history=[{"eval_loss": 1.0, "step": 0.0}, *history])
    alarms.on_train_begin(None, state, TrainerControl())  # type: ignore[arg-type]
    for number, line in enumerate(lines[checkpoint:], start=checkpoint + 1):
        alarms.on_log(None, TrainerState(global_step=number), TrainerControl(), logs=dict(line))  # type: ignore[arg-type]
    return events


def test_a_resumed_run_speaks_where_an_undisturbed_one_would_and_never_twice() -> None:
    plain: dict[str, float] = {"loss": 1.0, "logps/chosen": -50.0, "len/chosen": 50.0}
    started = [SEEN] * 3
    away = SEEN | {"image/margin": 0.3, "rewards/chosen": -0.2}
    whole = run([*started, *[away] * 4])
    assert [step for step, _, _ in whole] == [6]
    assert [_resumed([*started, *[away] * 4], checkpoint) for checkpoint in range(7)] == [whole] * 6 + [[]]
    for bad in (HEALTHY | {"rewards/margins": 31.0}, plain | {"logps/chosen": -70.0}):
        lines = [plain, bad, bad, bad, bad, bad, bad]
        whole = run(lines)
        assert [step for step, _, _ in whole] == [4]
        assert [_resumed(lines, checkpoint) for checkpoint in range(7)] == [whole] * 4 + [[]] * 3
