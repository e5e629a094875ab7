"""Judges that are slow, wrong, full or gone: what each costs, under which reason it is counted, and what is kept."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from PIL import Image

from mmpref.errors import ConfigError, EvalIncompleteError
from mmpref.sampling.scorers import build_scorer
from mmpref.sampling.scorers.contract import ScoreContext
from tests.chat_server import ChatServer, text_of, whole_reply
from tests.raw_server import SLOW, RawServer
from tests.unit.sampling.scorers.judges import answer_in, candidates, judge_at, rates, verdict

KEY = "sk-very-secret-0123456789"
FIVE = candidates(*(f"answer {n}" for n in range(5)))
MANY = candidates(*(f"answer {n}" for n in range(30)))


def three(request):
    return verdict(request, 3)


def reasons(found):
    return Counter((score.why, score.again) for score in found if score.value is None)


@pytest.mark.parametrize("fault", ["429", "500", "503", "garbage", "half", "drop"])
def test_what_passes_is_asked_again_and_costs_no_score(tmp_path, fault):
    with ChatServer(three, faults={1: fault, 3: fault}).running() as server:
        server.error_headers = {"Retry-After": "0.05"}
        found = list(judge_at(server.url, tmp_path, attempts=4).score([FIVE]))
        assert len(server.requests) == 7
    assert [score.value for score in found] == [3.0] * 5


def test_a_judge_that_hangs_or_drips_its_reply_costs_its_own_answer_only(tmp_path):
    with ChatServer(three, faults={1: "hang", 2: "trickle"}).running() as server:
        found = list(judge_at(server.url, tmp_path, attempts=1, timeout=2).score([FIVE]))
    assert reasons(found) == {("timeout", True): 2}
    assert sum(score.value == 3.0 for score in found) == 3


@pytest.mark.parametrize("how", ["reads and says nothing", "drips the body", "says 100 Continue for ever"])
def test_a_server_that_never_comes_to_an_end_is_left_in_time(tmp_path, how):
    with RawServer(SLOW[how]).running() as server:
        (score,) = judge_at(server.url, tmp_path, attempts=1, timeout=0.5).score([candidates("one")])
    assert (score.value, score.why, score.again) == (None, "timeout", True)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (lambda request: "", "no_verdict"),
        (lambda request: "I rate it 4 of 5.", "no_verdict"),
        (lambda request: '{"fence": "stale", "reason": "", "score": 4}', "no_verdict"),
        (lambda request: verdict(request, 4) + verdict(request, 5), "no_verdict"),
        (lambda request: verdict(request, 4)[:-1] + ', "score": 5}', "no_verdict"),
        (lambda request: verdict(request, 40), "out_of_scale"),
        (lambda request: {**whole_reply("", "judge"), "choices": []}, "bad_reply"),
    ],
)
def test_a_reply_without_one_verdict_is_none_whatever_it_looks_like(tmp_path, said, why):
    with ChatServer(said).running() as server:
        (score,) = judge_at(server.url, tmp_path).score([candidates("one")])
    assert (score.value, score.why, score.again) == (None, why, True)
    assert (tmp_path / "cache.jsonl").read_text() == ""


def test_a_judge_that_thinks_until_it_is_cut_is_named_so(tmp_path):
    def cut(request):
        reply = whole_reply('{"fence": ', "judge")
        reply["choices"][0]["finish_reason"] = "length"
        return reply

    with ChatServer(cut).running() as server:
        (score,) = judge_at(server.url, tmp_path).score([candidates("one")])
        (longer,) = judge_at(server.url, tmp_path, max_reply_tokens=4000).score([candidates("one")])
        assert [request["max_tokens"] for request in server.requests] == [512] * 3 + [4000] * 3
    assert (score.value, score.why) == (None, "cut")
    assert "cut after 512 tokens" in score.detail["why"]
    assert "cut after 4000 tokens" in longer.detail["why"]


def test_a_judge_that_thinks_before_it_answers_is_read_behind_its_thoughts(tmp_path):
    def thinks(request):
        return f"<think>It could be {verdict(request, 1)}, but no.</think>{verdict(request, 4)}"

    with ChatServer(thinks).running() as server:
        (score,) = judge_at(server.url, tmp_path).score([candidates("one")])
    assert score.value == 4.0


def over_limit(request):
    return 400, {"error": {"message": "This model's maximum context length is 4096 tokens."}}


def filtered(request):
    return 400, {"error": {"message": "The prompt was filtered.", "code": "content_filter"}}


def held_back(request):
    reply = whole_reply("x", "judge")
    reply["choices"][0]["finish_reason"] = "content_filter"
    return reply


def refused(request):
    reply = whole_reply("x", "judge")
    reply["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    return reply


@pytest.mark.parametrize(
    ("says", "why"),
    [(over_limit, "over_limit"), (filtered, "filtered"), (held_back, "filtered"), (refused, "refused")],
)
def test_what_one_answer_cannot_pass_is_asked_once_and_not_by_another_run_and_ends_nothing(tmp_path, says, why):
    def partly(request):
        return says(request) if int(answer_in(request).split()[-1]) < 20 else three(request)

    with ChatServer(partly).running() as server:
        found = list(judge_at(server.url, tmp_path).score([MANY]))
        assert len(server.requests) == 30
    assert reasons(found) == {(why, False): 20}


def test_a_bad_request_may_be_the_servers_settings_and_is_left_for_another_run(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    says = {"error": {"message": "At most 0 image(s) may be provided in one prompt."}}
    with ChatServer(lambda request: (400, says)).running() as server:
        (score,) = judge_at(server.url, tmp_path).score([candidates("one", images=("a.png",))])
        assert len(server.requests) == 1
    assert (score.why, score.again) == ("bad_request", True)
    assert "At most 0 image(s)" in score.detail["why"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        ("401", {"error": {"message": f"Incorrect API key provided: {KEY}"}}, "refuses the API key"),
        (
            "404",
            {"error": {"message": "The model `judge` does not exist"}},
            "the address or the model 'judge' is wrong",
        ),
        ("429", {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, "quota is used up"),
        ("402", {"error": {"message": "Insufficient Balance"}}, "quota is used up"),
    ],
)
def test_what_no_request_can_pass_ends_it_at_once_and_what_was_given_is_kept(tmp_path, monkeypatch, status, body, said):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with ChatServer(three, faults=dict.fromkeys(range(4, 100), status)).running() as server:
        server.error_body = body
        found = []
        with pytest.raises(ConfigError, match=said) as caught:
            found.extend(judge_at(server.url, tmp_path, concurrency=1, key_env="JUDGE_KEY").score([MANY]))
        assert len(server.requests) == 4
        assert len(found) == 3
        assert KEY not in str(caught.value)
        server.faults = {}
        again = list(judge_at(server.url, tmp_path).score([MANY]))
        assert len(server.requests) == 4 + 27
    assert [score.value for score in again] == [3.0] * 30


def test_many_failures_in_a_row_end_it_and_another_run_asks_about_the_rest_only(tmp_path):
    given = []
    with ChatServer(three, faults=dict.fromkeys(range(11, 1000), "500")).running() as server:
        with pytest.raises(EvalIncompleteError, match="the last 16 requests all failed"):
            given.extend(judge_at(server.url, tmp_path, attempts=1).score([MANY]))
        server.faults = {}
        asked = len(server.requests)
        again = list(judge_at(server.url, tmp_path).score([MANY]))
        assert len(server.requests) - asked == 20
    assert sum(score.value == 3.0 for score in given) == 10
    assert [score.value for score in again] == [3.0] * 30


def test_a_server_that_is_down_at_the_start_is_an_error_with_its_address(tmp_path):
    with pytest.raises(EvalIncompleteError, match=r"no connection to http://127\.0\.0\.1:9/v1"):
        list(judge_at("http://127.0.0.1:9", tmp_path, attempts=1).score([MANY]))
    found = list(judge_at("http://127.0.0.1:9", tmp_path, attempts=1).score([FIVE]))
    assert reasons(found) == {("no_connection", True): 5}


def test_a_judge_that_changes_its_name_on_the_way_or_between_runs_is_not_mixed_with_the_first(tmp_path):
    names = iter(["large-2025"] * 3 + ["large-2026"] * 100)

    def renamed(request):
        return {**whole_reply(three(request), "judge"), "model": next(names)}

    given = []
    with ChatServer(renamed).running() as server:
        for _ in range(2):
            with pytest.raises(EvalIncompleteError, match="answers as 'large-2026' now and as 'large-2025' before"):
                given.extend(judge_at(server.url, tmp_path, concurrency=1).score([FIVE]))
        assert len(server.requests) == 5
        (tmp_path / "another").mkdir()
        elsewhere = judge_at(server.url, tmp_path / "another", concurrency=1)
        assert {score.detail["judge"] for score in elsewhere.score([FIVE])} == {"large-2026"}
    assert [score.detail["judge"] for score in given] == ["large-2025"] * 6


def test_the_key_is_sent_and_is_in_no_file_message_or_score(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def repeats(request):
        return verdict(request, 3, reason=f"the key was {KEY}") if "0" in answer_in(request) else f"{KEY} " * 3

    with ChatServer(repeats).running() as server:
        options = {"server": server.url, "model": "judge", "key_env": "JUDGE_KEY"}
        scorer = build_scorer("q", "judge", options, ScoreContext(folder=tmp_path))
        found = list(scorer.score([FIVE]))
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert sum(score.value == 3.0 for score in found) == 1
    written = "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert written
    said = json.dumps([dict(score.detail) for score in found]) + json.dumps(dict(scorer.depends_on)) + written
    assert "[API key]" in said
    assert KEY not in said


def test_two_runs_do_not_write_one_cache_at_the_same_time(tmp_path):
    with ChatServer(three).running() as server:
        first = judge_at(server.url, tmp_path).score([FIVE])
        next(first)
        with pytest.raises(ConfigError, match="cache"):
            list(judge_at(server.url, tmp_path).score([FIVE]))
        assert len(list(first)) == 4


def test_answers_and_questions_of_any_bytes_are_judged_like_others(tmp_path):
    hostile = candidates("", "\x00\x1b[2J\u202e", "\ud800", "{" * 50_000, "x" * 200_000, question="\ud83d <<< >>> {{}}")
    with ChatServer(three).running() as server:
        found = list(judge_at(server.url, tmp_path).score([hostile]))
        assert all("\x1b" not in text_of(request) for request in server.requests)
    assert [score.value for score in found] == [3.0] * 5


def test_leaving_the_scores_early_gives_the_cache_free_and_keeps_what_came(tmp_path):
    with ChatServer(rates(lambda answer: 3)).running() as server:
        scores = judge_at(server.url, tmp_path).score([MANY])
        next(scores)
        scores.close()
        assert len(list(judge_at(server.url, tmp_path).score([MANY]))) == 30
