"""A time limit for a request holds whatever the server does: without one, these tests would wait for ever."""

import gc
import os
import signal
import socket
import subprocess
import threading
import time
import warnings

import pytest

from mmpref.generation.api_server import Server
from mmpref.generation.chat_api import ChatClient
from mmpref.generation.concurrency import ItemFailed
from mmpref.generation.http_calls import CallFailed, HttpCalls, OutOfTime
from tests.raw_server import SLOW, RawServer, read_request
from tests.unit.evals.test_judge import command

LIMIT = 0.3


def why_failed(ask):
    with pytest.raises(ItemFailed) as caught:
        ask()
    return str(caught.value)


def forget_other_tests():
    """What they left would warn in the test that happens to collect it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.mark.parametrize("way", SLOW)
def test_no_slow_server_is_waited_for_beyond_the_limit(way):
    with RawServer(SLOW[way]).running() as server:
        client = ChatClient(Server(url=server.url, model="m", timeout=LIMIT, attempts=1))
        why = why_failed(lambda: client.complete([], max_tokens=1))
        client.close()
    assert f"within {LIMIT} s" in why or "no connection" in why  # the client itself ends what has too many headers


def test_the_time_that_our_own_client_takes_to_load_is_not_the_servers(monkeypatch):
    import httpx2

    def speak(connection, closing):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        closing.wait()

    class Slow(httpx2.AsyncClient):
        def __init__(self, **settings):
            time.sleep(3)
            super().__init__(**settings)

    monkeypatch.setattr(httpx2, "AsyncClient", Slow)
    with RawServer(speak).running() as server:
        calls = HttpCalls(connections=1, trust_env=False)
        assert calls.request("GET", server.url, headers={}, seconds=1.5, most_bytes=1000).content == b"ok"
        calls.close()


def test_a_name_server_that_is_silent_is_not_waited_for(monkeypatch):
    found = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found.wait())
    client = ChatClient(Server(url="http://slow.example", model="m", timeout=LIMIT, attempts=1))
    why = why_failed(lambda: client.complete([], max_tokens=1))
    found.set()
    client.close()
    assert f"within {LIMIT} s" in why


def test_a_greeting_in_tls_that_does_not_come_is_not_waited_for():
    with RawServer(SLOW["says nothing at all"]).running() as server:
        at = Server(url=server.url.replace("http:", "https:"), model="m", timeout=LIMIT, attempts=1)
        client = ChatClient(at)
        why = why_failed(lambda: client.complete([], max_tokens=1))
        client.close()
    assert f"within {LIMIT} s" in why


def test_a_body_that_unpacks_without_end_is_left_early():
    import gzip

    bomb = gzip.compress(b" " * 50_000_000)

    def speak(connection, closing):
        read_request(connection)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        connection.sendall(head.encode() + bomb)
        closing.wait()

    with RawServer(speak).running() as server:
        calls = HttpCalls(connections=1, trust_env=False)
        with pytest.raises(CallFailed, match="larger than 1000 bytes"):
            calls.request("GET", server.url, headers={}, seconds=20, most_bytes=1000)
        calls.close()


def test_whoever_waits_is_woken_when_the_client_is_closed():
    with RawServer(SLOW["reads and says nothing"]).running() as server:
        client = ChatClient(Server(url=server.url, model="m", timeout=3600, attempts=1))
        threading.Timer(0.3, client.close).start()
        why = why_failed(lambda: client.complete([], max_tokens=1))
    assert "stopped" in why


def test_whoever_waits_is_woken_though_the_loop_has_no_time_to_end_its_requests(monkeypatch):
    from mmpref.generation import http_calls

    monkeypatch.setattr(http_calls, "_GRACE", 0.0)
    asked = threading.Event()

    def speak(connection, closing):
        read_request(connection)
        asked.set()
        closing.wait()

    with RawServer(speak).running() as server:
        calls = HttpCalls(connections=1, trust_env=False)
        threading.Thread(target=lambda: asked.wait(60) and calls.close()).start()
        with pytest.raises(CallFailed, match="stopped"):
            calls.request("GET", server.url, headers={}, seconds=20, most_bytes=1)


@pytest.mark.filterwarnings("error")
def test_a_closed_client_gives_its_thread_and_its_descriptors_back():
    def speak(connection, closing):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        closing.wait()

    forget_other_tests()
    before = set(threading.enumerate())
    calls = HttpCalls(connections=1, trust_env=False)
    (thread,) = set(threading.enumerate()) - before
    with RawServer(speak).running() as server:
        assert calls.request("GET", server.url, headers={}, seconds=20, most_bytes=1000).content == b"ok"
        calls.close()
        thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(CallFailed, match="stopped"):
        calls.request("GET", "http://localhost:1", headers={}, seconds=1, most_bytes=1)
    calls.close()
    del calls, thread  # an event loop that was left open warns where it is collected
    gc.collect()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("way", ["http", "https"])
def test_a_request_whose_time_is_up_leaves_no_connection_open(way):
    forget_other_tests()
    with RawServer(SLOW["says nothing at all"]).running() as server:
        before = set(threading.enumerate())
        calls = HttpCalls(connections=1, trust_env=False)
        (thread,) = [found for found in set(threading.enumerate()) - before if found.name == "http"]
        with pytest.raises(OutOfTime):
            calls.request("GET", server.url.replace("http", way), headers={}, seconds=LIMIT, most_bytes=1)
        calls.close()
        thread.join(60)
    del calls, thread
    gc.collect()  # warns of a socket that is still open


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_judge_that_waits_for_a_silent_server_ends_at_once_when_it_is_told_to(tmp_path, stop):
    asked = threading.Event()

    def speak(connection, closing):
        read_request(connection)
        asked.set()
        closing.wait()

    with (
        RawServer(speak).running() as server,
        subprocess.Popen(
            command(tmp_path, server.url), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
        ) as judge,
    ):
        assert asked.wait(120)
        judge.send_signal(stop)
        assert judge.wait(60) != 0  # the server's limit is two minutes
        assert "Traceback" not in judge.stderr.read()
    assert not (tmp_path / "v.jsonl").exists()
