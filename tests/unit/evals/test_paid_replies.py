"""What has to be paid for is counted, whatever came back for it: reasoning, refusals, and work that ran out of time."""

import json

import pytest

from mmpref.cli.main import main
from mmpref.generation.token_usage import Usage, usage_of
from mmpref.judging import Prices, dollars
from tests.chat_server import ChatServer, text_of, whole_reply
from tests.unit.evals.test_judge import MMHAL_ROWS, command, plan, rates

THOUGHT = {"completion_tokens_details": {"reasoning_tokens": 100_000}}


@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        # OpenAI: reasoning is in the completion, and the total is the sum
        ({"prompt_tokens": 300, "completion_tokens": 500, "total_tokens": 800,
          "completion_tokens_details": {"reasoning_tokens": 400}}, 300, 500),
        ({"prompt_tokens": 300, "completion_tokens": 500}, 300, 500),
        ({"prompt_tokens": 300, "completion_tokens": 100_020, **THOUGHT}, 300, 100_020),
        # xAI: beside the completion, and in the total
        ({"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 100_320, **THOUGHT}, 300, 100_020),
        # Gemini: in the total alone
        ({"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 100_320}, 300, 100_020),
        ({"prompt_tokens": 300, "completion_tokens": 20, **THOUGHT}, 300, 100_020),
        ({"prompt_tokens": 300, "completion_tokens": 20, "reasoning_tokens": 100_000}, 300, 100_020),
        ({"prompt_tokens": 300, **THOUGHT}, 300, 100_000),
        ({"prompt_tokens": 300, "total_tokens": 100_320}, 300, 100_020),
        ({"prompt_tokens": 300.0, "completion_tokens": 20.0, "total_tokens": 100_320.0}, 300, 100_020),
        ({"input_tokens": 300, "output_tokens": 20}, 300, 20),
        ({"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 0}, 300, 20),
        ({"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 10**30}, 300, 20),
        ({"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": -1, "completion_tokens_details": 1}, 300, 20),
        ({"prompt_tokens": True, "completion_tokens": "20"}, None, None),
        ({}, None, None), (None, None, None), ([], None, None),
    ],
)  # fmt: skip
def test_every_way_of_counting_reasoning_is_understood_and_nothing_is_counted_twice(usage, prompt, completion):
    assert usage_of({"usage": usage}) == Usage(prompt=prompt, completion=completion)


def run(tmp_path, answer, *, max_cost=None, **more):
    with ChatServer(answer).running() as server:
        made = plan(tmp_path, server, prices=Prices(prompt=1, completion=10), concurrency=1, **more)
        return made.run(tmp_path / "v.jsonl", max_cost=max_cost), len(server.requests)


def test_reasoning_beside_the_completion_reaches_the_limit(tmp_path):
    usage = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 100_320, **THOUGHT}
    outcome, asked = run(tmp_path, lambda request: whole_reply(rates(request), "j") | {"usage": usage}, max_cost=0.2)
    assert (asked, outcome.num_guessed) == (1, 0)
    assert outcome.cost == pytest.approx((300 + 10 * 100_020) / 1e6)


def test_calls_that_begin_together_do_not_pass_the_limit_together(tmp_path):
    """The first one shows what a call costs; the others wait for it."""
    usage = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 100_320, **THOUGHT}
    with ChatServer(lambda request: whole_reply(rates(request), "j") | {"usage": usage}).running() as server:
        made = plan(tmp_path, server, prices=Prices(prompt=1, completion=10), concurrency=8)
        outcome = made.run(tmp_path / "v.jsonl", max_cost=0.2)
        assert (outcome.num_calls, len(server.requests)) == (1, 1)
        outcome = plan(tmp_path, server, prices=Prices(prompt=1, completion=10), concurrency=8).run(
            tmp_path / "v.jsonl", max_cost=4.5
        )
        assert len(server.requests) == 1 + 4
    assert outcome.cost == pytest.approx(4 * (300 + 10 * 100_020) / 1e6)


def test_no_call_is_left_out_because_one_was_dear_while_there_is_money(tmp_path):
    def dear_once(request):
        reply = whole_reply(rates(request), "j")
        if "What is 0?" in text_of(request):
            reply["usage"] = {"prompt_tokens": 1000, "completion_tokens": 10_000}
        return reply

    with ChatServer(dear_once).running() as server:
        made = plan(tmp_path, server, prices=Prices(prompt=1, completion=10), concurrency=8)
        outcome = made.run(tmp_path / "v.jsonl", max_cost=0.3)  # two calls as dear as that could be under way
        assert server.most_at_once <= 2
    assert outcome.missing == {}


def test_thinking_that_is_shown_and_not_counted_is_guessed(tmp_path):
    def thinks(request):
        reply = whole_reply(rates(request), "j")
        reply["choices"][0]["message"]["reasoning_content"] = "so " * 50_000
        return reply

    outcome, asked = run(tmp_path, thinks, max_cost=0.2)
    assert (asked, outcome.num_guessed, outcome.completion_tokens) == (1, 1, 150_000)


USELESS = {
    "a filter": {"finish_reason": "content_filter", "message": {"content": ""}},
    "a refusal": {"finish_reason": "stop", "message": {"content": None, "refusal": "no"}},
    "no text": {"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{"id": "1"}]}},
    "no message": {"finish_reason": "stop"},
}


@pytest.mark.parametrize("name", USELESS)
def test_a_reply_that_gives_no_verdict_is_counted_as_the_server_says(tmp_path, name):
    outcome, asked = run(tmp_path, lambda request: whole_reply("", "j") | {"choices": [USELESS[name]]}, attempts=1)
    assert len(outcome.missing) == outcome.num_calls == asked == 12
    assert (outcome.num_guessed, outcome.prompt_tokens, outcome.completion_tokens) == (0, 12_000, 120)
    assert "not asked" not in "".join(outcome.missing.values())


def test_a_filtered_reply_says_so_even_when_the_money_is_gone(tmp_path):
    usage = {"prompt_tokens": 1000, "completion_tokens": 100_000}
    reply = whole_reply("", "j") | {"choices": [USELESS["a filter"]], "usage": usage}
    outcome, asked = run(tmp_path, lambda request: reply, max_cost=0.2)
    assert asked == 1
    assert sorted(set(outcome.missing.values())) == [
        "not asked: the limit of cost was reached",
        "the server's filter held the reply back",
    ]


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        (408, 24),
        (499, 12),
        pytest.param(500, 24, marks=pytest.mark.slow),
        pytest.param(502, 24, marks=pytest.mark.slow),
        (504, 24),
        pytest.param(524, 24, marks=pytest.mark.slow),
        pytest.param(529, 24, marks=pytest.mark.slow),
        (429, 0),
        pytest.param(503, 0, marks=pytest.mark.slow),
        pytest.param(522, 0, marks=pytest.mark.slow),
        (400, 0),
    ],
)
def test_a_status_that_may_follow_paid_work_is_guessed(tmp_path, status, counted):
    outcome, asked = run(tmp_path, lambda request: (status, {"error": {"message": "no"}}))
    assert asked == (12 if status in (400, 499) else 24)
    assert (outcome.num_calls, outcome.num_guessed) == (counted, counted)
    assert outcome.completion_tokens == 512 * counted


def test_a_prompt_that_a_filter_refuses_is_guessed(tmp_path):
    refused = (400, {"error": {"code": "content_filter", "message": "the prompt was filtered"}})
    outcome, _ = run(tmp_path, lambda request: refused)
    assert (len(outcome.missing), outcome.num_calls, outcome.num_guessed) == (12, 12, 12)


def test_time_that_is_over_again_and_again_reaches_the_limit(tmp_path):
    outcome, asked = run(tmp_path, lambda request: (504, {"error": "late"}), max_cost=0.03)
    assert 1 < asked < 12
    assert outcome.cost > 0.02


def test_a_run_that_is_broken_off_says_what_it_has_spent(tmp_path, capsys):
    with ChatServer(rates, dict.fromkeys(range(4, 20), "404")).running() as server:
        arguments = command(tmp_path, server.url, "--price-in", "1", "--price-out", "10", "--concurrency", "1")
        assert main(arguments[3:]) == 2
    assert "broken off after 3 calls, 3,000 + 30 tokens, $0.0033" in " ".join(capsys.readouterr().out.split())
    assert len((tmp_path / "v.cache.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "q.json").read_text()) == MMHAL_ROWS


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0"), (0.004, "$0.004"), (0.000123456, "$0.00012"), (0.01, "$0.01"), (0.0954, "$0.095"), (0.25, "$0.25"),
        (1, "$1.00"), (12.3449, "$12.34"), (1234.5, "$1234.50"), (0.00099999, "$0.001"),
    ],
)  # fmt: skip
def test_a_cost_below_a_cent_is_no_zero(amount, shown):
    assert dollars(amount) == shown
