"""Fetching from servers that are slow, lie about what they send or stop in the middle; hosts in any spelling."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpref.data.fetching.policy import FetchPolicy, Target, checked_address, parse_url
from mmpref.data.fetching.public_hosts import is_public, normal_host
from mmpref.data.fetching.store import FOLDER
from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError
from tests.raw_server import SLOW, RawServer, read_request
from tests.unit.data.fetching.test_fetch import HOST, POLICY, image, rows_of, run

LIMIT = 0.3


def policy_for(server: RawServer, **changes: Any) -> FetchPolicy:
    def connect(host: str, address: str, port: int, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)

    settings: dict[str, Any] = {
        "hosts": frozenset({HOST}), "resolve": lambda *_: ["1.1.1.1"], "connect": connect, "deadline": LIMIT,
        "attempts": 3, "backoff": 0.01,
    }  # fmt: skip
    return FetchPolicy(**settings | changes)


def says(body: bytes, *headers: str) -> RawServer:
    """A server that ends the connection with the body, and tells no length unless it is among the headers."""

    def speak(connection: socket.socket, closing: threading.Event) -> None:
        read_request(connection)
        head = "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", "Connection: close", *headers))
        connection.sendall(head.encode() + b"\r\n" + body)

    return RawServer(speak)


def nothing_is_left(folder: Path) -> bool:
    return not [file for file in (folder / "root" / FOLDER).rglob("*") if file.is_file()]


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", SLOW)
def test_no_slow_server_is_waited_for_beyond_the_limit(tmp_path: Path, way: str) -> None:
    with RawServer(SLOW[way]).running() as server:
        report, quarantine = run(rows_of(tmp_path, f"https://{HOST}/a.png"), policy_for(server))
    assert (report.used, report.images) == (0, 0)
    assert set(quarantine.counts) <= {"fetch_timeout", "fetch_failed"}  # Python's client ends 100 headers itself
    assert nothing_is_left(tmp_path)


def test_a_greeting_in_tls_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(SLOW["drips the status line"]).running() as server:
        connect = socket.create_connection
        monkeypatch.setattr(socket, "create_connection", lambda _, timeout: connect(("127.0.0.1", server.port)))
        policy = FetchPolicy(hosts=frozenset({HOST}), resolve=lambda *_: ["1.1.1.1"], deadline=LIMIT, attempts=1)
        _, quarantine = run(rows_of(tmp_path, f"https://{HOST}/a.png"), policy)
    assert quarantine.counts == {"fetch_timeout": 1}


def test_a_name_server_that_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    found = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        found.wait()
        return []

    policy = FetchPolicy(hosts=frozenset({HOST}), resolve=resolve, deadline=LIMIT)
    _, quarantine = run(rows_of(tmp_path, f"https://{HOST}/a.png"), policy)
    found.set()
    assert quarantine.counts == {"fetch_timeout": 1}
    assert "the name server did not answer" in quarantine.rows[0].detail


SCRIPT = """
import http.client, sys
from pathlib import Path
from mmpref.data.fetching.fetch import FetchPolicy, fetch_pairs
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
port, rows = int(sys.argv[1]), Path(sys.argv[2])
policy = FetchPolicy(
    hosts=frozenset({sys.argv[3]}), resolve=lambda *_: ["1.1.1.1"],
    connect=lambda host, address, _, timeout: http.client.HTTPConnection("127.0.0.1", port, timeout=timeout),
)
root = rows.parent / "root"
fetch_pairs(open_pairs(rows), out=root / "pairs.jsonl", root=root, policy=policy, quarantine=Quarantine())
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_call_ends_at_once_and_leaves_no_half_file_for_long(tmp_path: Path, stop: signal.Signals) -> None:
    asked = threading.Event()

    def speak(connection: socket.socket, closing: threading.Event) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n\x89PNG")
        asked.set()
        closing.wait()

    path = rows_of(tmp_path, f"https://{HOST}/a.png")
    with (
        RawServer(speak).running() as server,
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(server.port), str(path), HOST], stderr=subprocess.PIPE, env=os.environ
        ) as call,
    ):
        assert asked.wait(60)
        call.send_signal(stop)
        assert call.wait(40) != 0  # its limit is two minutes
    parts = list((tmp_path / "root").rglob("*.part"))
    assert (len(parts) == 1) == (stop == signal.SIGKILL)
    with says(image()).running() as server:
        report, _ = run(path, policy_for(server, deadline=60))
    assert (report.used, list((tmp_path / "root").rglob("*.part"))) == (1, [])
    assert not list(tmp_path.rglob(".*.lock")) or stop == signal.SIGKILL


def test_two_calls_do_not_write_one_file_or_folder(tmp_path: Path) -> None:
    path = rows_of(tmp_path, f"https://{HOST}/a.png")
    seen: list[str] = []

    def speak(connection: socket.socket, closing: threading.Event) -> None:
        read_request(connection)
        with pytest.raises(ConfigError, match=rf"is being written by process {os.getpid()} on ") as caught:
            run(path, policy_for(server))
        seen.append(str(caught.value))
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + image())

    with RawServer(speak).running() as server:
        assert run(path, policy_for(server, deadline=60))[0].used == 1
    assert len(seen) == 1


# --- what comes -------------------------------------------------------------------------------------------------------


def encoded(kind: str) -> bytes:
    buffer, image = io.BytesIO(), Image.effect_noise((60, 50), 80).convert("RGB")
    image.save(buffer, kind.partition(" ")[0], **({"progressive": True} if "progressive" in kind else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "JPEG progressive", "WEBP", "GIF", "BMP"])
def test_a_part_of_a_image_is_none_though_the_server_tells_no_length(tmp_path: Path, kind: str) -> None:
    whole = encoded(kind)
    path = rows_of(tmp_path, f"https://{HOST}/a.png")
    for share in (0.02, 0.3, 0.5, 0.9):
        with says(whole[: int(share * len(whole))]).running() as server:
            report, quarantine = run(path, policy_for(server, deadline=60, attempts=1))
        assert (share, report.used, quarantine.counts) == (share, 0, {"image_decode": 1})
        assert nothing_is_left(tmp_path)
    with says(whole).running() as server:
        assert run(path, policy_for(server, deadline=60))[0].used == 1


@pytest.mark.parametrize(
    ("body", "headers", "used"),
    [
        (b"<html>not found</html>", ["Content-Type: image/png"], False),
        (gzip.compress(image()), ["Content-Type: image/png"], False),
        (gzip.compress(image()), ["Content-Encoding: gzip"], False),
        (b"", ["Content-Type: image/png"], False),
        (b'{"error": 404}', ["Content-Type: application/json"], False),
        (image(), ["Content-Type: text/html"], True),
        (image(), ["Content-Type: image/jpeg"], True),
    ],
)
def test_what_counts_is_what_came_and_not_what_it_is_called(
    tmp_path: Path, body: bytes, headers: list[str], used: bool
) -> None:
    with says(body, *headers).running() as server:
        report, quarantine = run(rows_of(tmp_path, f"https://{HOST}/a.png"), policy_for(server, deadline=60))
    assert (report.used, len(quarantine)) == (int(used), int(not used))
    assert used or "\n" not in quarantine.rows[0].detail


def test_half_a_file_of_an_earlier_version_is_fetched_again(tmp_path: Path) -> None:
    path = rows_of(tmp_path, f"https://{HOST}/a.png")
    with says(image()).running() as server:
        run(path, policy_for(server, deadline=60))
        (file,) = (found for found in (tmp_path / "root" / FOLDER).rglob("*") if found.is_file())
        file.write_bytes(image()[:60])
        report, _ = run(path, policy_for(server, deadline=60))
    assert (report.used, report.downloaded, file.read_bytes()) == (1, 1, image())


# --- hosts and addresses ----------------------------------------------------------------------------------------------

INSIDE = """
::127.0.0.1 ::ffff:0:127.0.0.1 fec0::1 64:ff9b:1::a00:1 ::5efe:7f00:1 2606:4700::5efe:a00:1 2606:4700::200:5efe:a00:1
2002:a00:1:: 2002:7f00:1::1 2001:0:a00:1:: 2001:0:4136:e378:8000:63bf:f5ff:fffe ::ffff:10.0.0.1 ::ffff:169.254.169.254
64:ff9b::a9fe:a9fe fe80::1%1 2606:4700::1111%eth0 0177.0.0.1 0x7f000001 2130706433 127.1 ::8.8.8.8 100::1 2001:db8::1
3fff::1 5f00::1 192.0.0.1 192.88.99.1 198.18.0.1 240.0.0.1 ff0e::1 fd00::1
""".split()  # noqa: SIM905  # a table


@pytest.mark.parametrize("address", INSIDE)
def test_no_address_with_a_private_one_inside_is_public(address: str) -> None:
    assert not is_public(address)
    policy = FetchPolicy(hosts=frozenset({HOST}), resolve=lambda *_: ["1.1.1.1", address])
    with pytest.raises(RowError) as caught:
        checked_address(Target(HOST, 443, "/"), policy)
    assert caught.value.reason == "fetch_address"


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2a00:1450:4001:800::200e"],
)
def test_public_addresses_stay_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("Images.TEST", "images.test"),
        ("images.test.", "images.test"),
        (" images.test ", "images.test"),
        ("https://images.test", "images.test"),
        ("HTTPS://images.test:443/", "images.test"),
        ("b\u00fccher.test", "xn--bcher-kva.test"),
        ("*.Many.Test.", "*.many.test"),
    ],
)
def test_a_host_in_another_spelling_is_the_same_host(given: str, host: str) -> None:
    assert normal_host(given) == host
    assert FetchPolicy(hosts=frozenset({given})).allows_host(host.replace("*", "one"))


@pytest.mark.parametrize(
    "given",
    ["", "*", "*.", "*.org", "http://images.test", "ftp://images.test", "images.test:8443", "images.test/a",
     "127.0.0.1", "2130706433", "0x7f.1", "[::1]", "a b.test", "x..test", "user@images.test", "*x.test", "a.*.test"],
)  # fmt: skip
def test_a_host_that_could_match_nothing_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="--host "):
        FetchPolicy(hosts=frozenset({given}))


def test_a_dot_at_the_end_of_a_name_in_a_url_is_no_other_name() -> None:
    assert parse_url(f"https://{HOST}./a.png", POLICY) == Target(HOST, 443, "/a.png")
