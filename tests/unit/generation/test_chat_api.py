"""The client against a real HTTP server that misbehaves."""

import threading
import time

import pytest

from mmpref.errors import ConfigError, EvalIncompleteError
from mmpref.generation.api_server import Server
from mmpref.generation.chat_api import ChatClient
from mmpref.generation.concurrency import ItemFailed, in_parallel
from tests.chat_server import ChatServer, whole_reply
from tests.tiers import corners

KEY = "sk-very-secret-0123456789"


def ask(server, **more):
    client = ChatClient(at(server, **more))
    try:
        return client.complete([{"role": "user", "content": "hello"}], max_tokens=5)
    finally:
        client.close()


def at(server, **more):
    return Server(**{"url": server.url, "model": "m", "pause": 0.01, "timeout": 60, **more})


@pytest.fixture
def serve():
    """Starts servers that end with the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda answer="hi", **more: stack.enter_context(
            ChatServer(answer if callable(answer) else lambda _: answer, **more).running()
        )


def test_a_reply_has_text_model_and_token_counts(serve):
    server = serve()
    reply = ask(server)
    assert (reply.text, reply.model, reply.prompt_tokens, reply.completion_tokens, reply.cut) == (
        "hi", "m-2026-01-01", 1000, 10, False,
    )  # fmt: skip
    assert server.requests[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.0,
        "max_tokens": 5,
        "stream": False,
    }
    assert server.paths == ["/v1/chat/completions"]
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("fault", ["429", "500", "502", "503", "408", "garbage", "half", "drop"])
def test_what_may_pass_is_tried_again(serve, fault):
    server = serve(faults={1: fault, 2: fault})
    assert ask(server).text == "hi"
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", corners(["hang", "trickle"], "trickle"))
def test_a_reply_that_does_not_come_is_waited_for_once_more_and_not_for_ever(serve, fault):
    server = serve(faults={1: fault})
    assert ask(server, timeout=3).text == "hi"
    assert len(server.requests) == 2
    silent = serve(faults={0: fault})
    with pytest.raises(ItemFailed, match=r"within 0\.3 s \(2 attempts\)"):
        ask(silent, timeout=0.3)


@pytest.mark.parametrize("fault", ["429", "500", "garbage"])
def test_what_does_not_pass_fails_this_request_only(serve, fault):
    server = serve(faults={0: fault})
    with pytest.raises(ItemFailed, match=r"\(3 attempts\)"):
        ask(server, attempts=3)
    assert len(server.requests) == 3


def test_a_hanging_server_is_left_in_time(serve):
    with pytest.raises(ItemFailed, match=r"no reply within 0\.3 s"):
        ask(serve(faults={0: "hang"}), attempts=2, timeout=0.3)


def test_a_trickling_server_is_left_in_time(serve):
    server = serve(faults={0: "trickle"})
    for limit in (0.5, 4):  # on a busy machine the reply may not even begin within the first
        with pytest.raises(ItemFailed, match=rf"no (whole )?reply within {limit} s") as caught:
            ask(server, attempts=1, timeout=limit)
        if "no whole reply" in str(caught.value):
            break
    assert "no whole reply" in str(caught.value)


def test_a_server_that_is_not_there_is_named():
    client = ChatClient(Server(url="http://127.0.0.1:9", model="m", attempts=2, pause=0.01))
    with pytest.raises(ItemFailed, match=r"no connection to http://127\.0\.0\.1:9/v1"):
        client.complete([], max_tokens=1)


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(serve, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(serve(), attempts=1).text == "hi"


def test_retry_after_is_honoured(serve):
    server = serve(faults={1: "429"})
    server.error_headers = {"Retry-After": "0.4"}
    begun = time.monotonic()
    ask(server)
    assert time.monotonic() - begun >= 0.4


def test_a_bad_request_fails_this_request_without_another_try(serve):
    server = serve(faults={0: "400"})
    server.error_body = {"error": {"message": "image too large"}}
    with pytest.raises(ItemFailed, match="answered 400: image too large"):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "named"),
    [
        ("401", {"error": {"message": "bad key"}}, "refuses the API key.*bad key"),
        ("404", {"detail": "no such model"}, "the address or the model 'm' is wrong: no such model"),
        ("302", {}, "a redirect, which is not followed"),
        ("429", {"error": {"code": "insufficient_quota", "message": "pay"}}, "quota is used up: pay"),
        ("402", {"error": {"message": "Insufficient Balance"}}, "quota is used up: Insufficient Balance"),
    ],
)
def test_what_no_request_can_pass_ends_everything(serve, status, body, named):
    server = serve(faults={0: status})
    server.error_body = body
    with pytest.raises(ConfigError, match=named):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        ("400", "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.", ""),
        (
            "400",
            "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is ",
            "",
        ),
        ("400", "The decoder prompt (length 9000) is longer than the maximum model length of 4096.", ""),
        ("400", "The input (5000 tokens) is longer than the model's context length (4096 tokens).", ""),
        ("400", "the request exceeds the available context size, try increasing it", "exceed_context_size_error"),
        ("400", "prompt is too long: 210000 tokens > 200000 maximum", ""),
        ("400", "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).", ""),
        ("422", "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", ""),
        ("400", "Please reduce it.", "context_length_exceeded"),
        ("413", "Request Entity Too Large", ""),
    ],
)
def test_a_request_over_the_limit_is_named_so_and_never_asked_again(serve, status, message, code):
    server = serve(faults={0: status})
    server.error_body = {"error": {"message": message, "code": code}}
    with pytest.raises(ItemFailed) as caught:
        ask(server)
    assert (caught.value.why, caught.value.again, len(server.requests)) == ("over_limit", False, 1)


@pytest.mark.parametrize(
    ("fault", "why"),
    [("429", "too_many_requests"), ("503", "server_error"), ("garbage", "bad_reply"), ("drop", "no_connection")],
)
def test_what_may_pass_has_a_reason_in_a_word_and_may_be_asked_by_another_run(serve, fault, why):
    with pytest.raises(ItemFailed) as caught:
        ask(serve(faults={0: fault}), attempts=2)
    assert (caught.value.why, caught.value.again) == (why, True)


@pytest.mark.parametrize(
    "message", ["image too large", "At most 0 image(s) may be provided in one prompt.", "invalid base64 in input"]
)
def test_another_bad_request_is_not_taken_for_one_over_the_limit(serve, message):
    server = serve(faults={0: "400"})
    server.error_body = {"error": {"message": message}}
    with pytest.raises(ItemFailed) as caught:
        ask(server)
    assert (caught.value.why, caught.value.again) == ("bad_request", True)


def test_a_newer_name_of_the_length_limit_is_learnt(serve):
    server = serve(faults={1: "400"})
    server.error_body = {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead."}}
    assert ask(server).text == "hi"
    assert server.requests[1]["max_completion_tokens"] == 5
    assert "max_tokens" not in server.requests[1]


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ({"choices": []}, "not one of the chat API"),
        ({"choices": [{"message": {"content": None}}]}, "no text"),
        ({"choices": [{"message": {"content": 7}}]}, "no text"),
        ([1], "not one of the chat API"),
    ],
)
def test_json_of_another_shape_is_no_reply(serve, reply, problem):
    server = serve(lambda _: reply if isinstance(reply, dict) else {"choices": reply})
    with pytest.raises(ItemFailed, match=problem):
        ask(server, attempts=2)


def test_a_filtered_reply_fails_and_a_cut_one_says_so(serve):
    def filtered(_):
        reply = whole_reply("x", "m")
        reply["choices"][0]["finish_reason"] = "content_filter"
        return reply

    with pytest.raises(ItemFailed, match="filter"):
        ask(serve(filtered))

    def cut(_):
        reply = whole_reply("x", "m")
        reply["choices"][0]["finish_reason"] = "length"
        return reply

    assert ask(serve(cut)).cut


def test_text_in_parts_is_joined(serve):
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "cup"}]
    assert ask(serve(lambda _: {"choices": [{"message": {"content": parts}}]})).text == "a cup"


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_cut_out_of_whatever_comes_back(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server = serve(f"your key is {KEY}")
    assert ask(server, key_env="JUDGE_KEY").text == "your key is [API key]"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    refusing = serve(faults={0: "401"})
    refusing.error_body = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    with pytest.raises(ConfigError) as caught:
        ask(refusing, key_env="JUDGE_KEY")
    assert KEY not in str(caught.value)
    assert KEY not in repr(at(server, key_env="JUDGE_KEY"))


def test_openais_key_goes_to_openai_alone(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve()
    ask(server)
    assert "Authorization" not in server.headers[0]
    assert Server(url="https://api.openai.com/v1", model="m").key() == KEY
    assert Server(url="https://api.openai.com.evil.example/v1", model="m").key() is None


def test_a_named_key_that_is_not_set_is_refused(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="JUDGE_KEY, which should hold the API key, is not set"):
        Server(url="http://h", model="m", key_env="JUDGE_KEY").key()


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("https://h/api/v1/", "https://h/api/v1"),
        ("https://h/v1/chat/completions", "https://h/v1"),
    ],
)
def test_addresses_are_brought_to_one_form(url, base):
    assert Server(url=url, model="m").url == base


@pytest.mark.parametrize(
    "url", ["h:8000", "ftp://h", "", "http://", f"https://user:{KEY}@h/v1", f"https://h/v1?k={KEY}"]
)
def test_other_addresses_are_refused_without_repeating_secrets(url):
    with pytest.raises(ConfigError) as caught:
        Server(url=url, model="m")
    assert KEY not in str(caught.value)


# --- several at once -------------------------------------------------------------------------------------------------


def test_requests_run_at_once_up_to_the_limit_and_all_come_back(serve):
    def slow(request):
        time.sleep(0.05)
        return request["messages"][0]["content"]

    server = serve(slow)
    client = ChatClient(at(server, concurrency=4, timeout=5))

    def work(n):
        return client.complete([{"role": "user", "content": str(n)}], max_tokens=1).text

    found = dict(in_parallel(range(1, 21), work, workers=4, stop=client.close))
    assert found == {n: str(n) for n in range(1, 21)}
    assert 2 <= server.most_at_once <= 4


def test_an_error_in_one_thread_is_raised_to_the_caller():
    def work(n):
        raise ConfigError("bad key")

    with pytest.raises(ConfigError, match="bad key"):
        list(in_parallel([1, 2], work, workers=2, stop=lambda: None))


def test_many_failures_in_a_row_end_the_run_but_scattered_ones_do_not():
    asked = []

    def work(n):
        asked.append(n)
        if n % 5:
            raise ItemFailed("no")
        return n

    assert len(list(in_parallel(range(1, 101), work, workers=1, stop=lambda: None))) == 100

    def gone(n):
        asked.append(n)
        raise ItemFailed("gone")

    asked.clear()
    with pytest.raises(EvalIncompleteError, match="the last 16 requests all failed, so no more are made: gone"):
        list(in_parallel(range(1, 101), gone, workers=1, stop=lambda: None))
    assert len(asked) == 16


def test_requests_that_can_have_no_answer_do_not_end_the_run_however_many_they_are():
    def too_long(n):
        raise ItemFailed("too long", why="over_limit", again=False)

    assert len(list(in_parallel(range(1, 101), too_long, workers=1, stop=lambda: None))) == 100


def test_leaving_early_stops_the_threads(serve):
    server = serve(faults={0: "500"})
    client = ChatClient(at(server, pause=3600, attempts=3))

    def work(n):
        if n == 1:
            return n
        return client.complete([], max_tokens=1)

    before = threading.active_count()
    results = in_parallel(range(1, 9), work, workers=4, stop=client.close)
    next(results)
    results.close()
    while threading.active_count() > before:  # a sleeper would be there for an hour
        time.sleep(0.02)
