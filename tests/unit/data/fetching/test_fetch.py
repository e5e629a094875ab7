"""Fetching reaches only what was named, at public addresses, within its caps; and takes up where it stopped."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpref.data.fetching.fetch import FetchReport, fetch_pairs
from mmpref.data.fetching.policy import FetchPolicy, Target, checked_address, parse_url
from mmpref.data.fetching.store import FOLDER
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import load_pairs
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.errors import CheckpointError, ConfigError

HOST = "images.test"
POLICY = FetchPolicy(hosts=frozenset({HOST, "*.many.test"}))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://images.test/a.png", "fetch_url"),
        ("ftp://images.test/a.png", "fetch_url"),
        ("s3://images.test/a.png", "fetch_url"),
        ("https://user@images.test/a.png", "fetch_url"),
        ("https://images.test:8443/a.png", "fetch_url"),
        ("https://images.test:99999/a.png", "fetch_url"),
        ("https://other.test\\@images.test/a.png", "fetch_url"),
        ("https://images.test/a b.png", "fetch_url"),
        ("https://images.test/a\r\nHost: x", "fetch_url"),
        ("https://b\u00fccher.test/a.png", "fetch_url"),
        ("https://[::1]/a.png", "fetch_url"),
        ("https:///a.png", "fetch_url"),
        ("https://2130706433/a.png", "fetch_host"),
        ("https://127.0.0.1/a.png", "fetch_host"),
        ("https://localhost/a.png", "fetch_host"),
        ("https://images.test.evil.test/a.png", "fetch_host"),
        ("https://evilimages.test/a.png", "fetch_host"),
        ("https://many.test/a.png", "fetch_host"),
    ],
)
def test_what_is_not_a_plain_https_url_of_a_named_host_is_refused(url: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_url(url, POLICY)
    assert caught.value.reason == reason


def test_named_hosts_are_accepted_and_taken_apart() -> None:
    assert parse_url("https://Images.TEST/a%20b.png?x=1#part", POLICY) == Target(HOST, 443, "/a%20b.png?x=1")
    assert parse_url("https://one.many.test", POLICY) == Target("one.many.test", 443, "/")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
     "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "not an address"],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    policy = replace(POLICY, resolve=lambda *_: ["1.1.1.1", address])
    with pytest.raises(RowError) as caught:
        checked_address(Target(HOST, 443, "/"), policy)
    assert caught.value.reason == "fetch_address"


def test_public_addresses_are_accepted() -> None:
    for address in ("1.1.1.1", "2606:4700:4700::1111"):
        policy = replace(POLICY, resolve=lambda *_, found=address: [found])
        assert checked_address(Target(HOST, 443, "/"), policy) == address


# ---- against a server -----------------------------------------------------------------------------------------


def image(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Answers by path; counts what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.headers['Host']}{self.path}")
        times = self.server.asked.count(self.server.asked[-1])
        name = self.path.strip("/")
        if name in ("red.png", "blue.png"):
            self.answer(200, image(name.split(".")[0]))
        elif name == "busy.png":
            self.answer(200, image("green")) if times > 1 else self.answer(503)
        elif name == "cut.png":
            self.answer(200, image()[:40] if times > 1 else image()[:50], Content_Length="5000")
        elif name == "page.png":
            self.answer(200, b"<html>404")
        elif name == "near.png":
            self.answer(302, Location="/red.png")
        elif name.startswith("to-"):
            self.answer(302, Location="https://" + name[3:])
        elif name == "nowhere.png":
            self.answer(302, Location="https://[::1/red.png")
        elif name == "long.png":
            self.answer(302, Location=f"https://{'a' * 64}.{HOST}/red.png")
        elif name == "around.png":
            self.answer(302, Location="/around.png")
        elif name == "large.png":
            self.answer(200, b"\0" * 300_000)
        elif name == "endless.png":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # we hang up
                for _ in range(100):
                    self.wfile.write(b"\0" * 10_000)
        elif name == "slow.png":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # we hang up
                while True:
                    self.wfile.write(b"\0")
                    time.sleep(0.02)
        elif name == "zipped.png":
            self.answer(200, b"x", Content_Encoding="gzip")
        else:
            self.answer(404)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def policy_for(server: Server, **changes: Any) -> FetchPolicy:
    """The policy with every name leading to our server, and plain HTTP in the place of TLS."""
    found = replace(
        POLICY,
        resolve=lambda *_: ["127.0.0.1"],
        allowed_addresses=frozenset({"127.0.0.1"}),
        connect=lambda host, address, port, timeout: http.client.HTTPConnection(
            address, server.server_address[1], timeout=timeout
        ),
        max_bytes=200_000,
        deadline=60,
        attempts=2,
        backoff=0.0,
    )
    return replace(found, **changes)


def rows_of(folder: Path, *urls: str) -> Path:
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    row = {"prompt": [{"role": "user", "content": content}], "chosen": "a", "rejected": "b"}
    lines = [json.dumps({**row, "id": f"r{number}", "images": [url]}) for number, url in enumerate(urls)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines))
    return path


def run(path: Path, policy: FetchPolicy) -> tuple[FetchReport, Quarantine]:
    quarantine = Quarantine()
    root = path.parent / "root"
    report = fetch_pairs(open_pairs(path), out=root / "pairs.jsonl", root=root, policy=policy, quarantine=quarantine)
    assert report.used + report.quarantined == report.read
    return report, quarantine


def test_images_become_files_and_rows_name_them(tmp_path: Path, server: Server) -> None:
    urls = [f"https://{HOST}/{name}" for name in ("red.png", "blue.png", "red.png", "busy.png", "near.png")]
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "local.png").write_bytes(image("black"))
    path = rows_of(tmp_path, *urls, "local.png")
    report, quarantine = run(path, policy_for(server))
    assert (report.used, report.images, report.downloaded, quarantine.counts) == (6, 4, 4, {})
    loader = ImageLoader(tmp_path / "root")
    pairs = load_pairs([report.out], allow_demonstrations=False, quarantine=Quarantine(), images=loader)
    colours = [loader.open(pair.images[0]).getpixel((0, 0)) for pair in pairs]
    assert colours == [(255, 0, 0), (0, 0, 255), (255, 0, 0), (0, 128, 0), (255, 0, 0), (0, 0, 0)]
    asked = len(server.asked)
    again, _ = run(path, policy_for(server))
    assert (again.used, again.images, again.downloaded, len(server.asked)) == (6, 4, 0, asked)
    assert not list((tmp_path / "root").rglob("*.part"))


def test_files_that_rows_name_by_path_must_lie_below_the_root_and_are_named_from_there(
    tmp_path: Path, server: Server
) -> None:
    for name in ("root/in_root.png", "root/below/beside.png", "outside.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(image())
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "outside.png")
    below = str(tmp_path / "root" / "below" / "beside.png")
    names = ["in_root.png", "root/below/beside.png", below, "outside.png", "absent.png", "link.png", "../outside.png"]
    report, quarantine = run(rows_of(tmp_path, *names), policy_for(server))
    written = [json.loads(line)["images"] for line in report.out.read_text().splitlines()]
    assert written == [["in_root.png"], ["below/beside.png"], ["below/beside.png"]]
    assert [row.id for row in quarantine.rows] == ["r3", "r4", "r5", "r6"]
    assert quarantine.counts == {"image_outside_root": 4}


FAULTS = {
    "absent.png": ("fetch_failed", "answered 404"),
    "cut.png": ("fetch_failed", "of 5000 bytes"),
    "page.png": ("image_decode", "not an image"),
    "around.png": ("fetch_failed", "more than 3 redirects"),
    "large.png": ("fetch_too_large", "300000 bytes"),
    "endless.png": ("fetch_too_large", "more than the limit of 200000"),
    "zipped.png": ("fetch_failed", "compressed"),
    "nowhere.png": ("fetch_url", "which is not a URL"),
    "long.png": ("fetch_url", "no plain host name"),
    "to-other.test/red.png": ("fetch_host", "not an allowed host"),
    "to-127.0.0.1/red.png": ("fetch_host", "not an allowed host"),
}


def test_what_cannot_be_had_is_put_aside_with_its_reason(tmp_path: Path, server: Server) -> None:
    path = rows_of(tmp_path, *(f"https://{HOST}/{name}" for name in FAULTS), f"https://{HOST}/red.png")
    report, quarantine = run(path, policy_for(server))
    assert (report.used, report.images) == (1, 1)
    found = dict(zip(FAULTS, quarantine.rows, strict=True))
    for name, (reason, detail) in FAULTS.items():
        assert (name, found[name].reason) == (name, reason)
        assert detail in found[name].detail
    assert len(list((tmp_path / "root" / FOLDER).rglob("*.part"))) == 0
    assert sum(file.is_file() for file in (tmp_path / "root" / FOLDER).rglob("*")) == 1


def test_what_does_not_come_in_time_is_put_aside_with_its_reason(tmp_path: Path, server: Server) -> None:
    report, quarantine = run(rows_of(tmp_path, f"https://{HOST}/slow.png"), policy_for(server, deadline=0.3))
    [row] = quarantine.rows
    assert (report.used, row.reason, "longer than 0.3 seconds" in row.detail) == (0, "fetch_timeout", True)


def test_a_server_of_this_machine_is_refused_unless_allowed(tmp_path: Path, server: Server) -> None:
    path = rows_of(tmp_path, f"https://{HOST}/red.png")
    report, quarantine = run(path, policy_for(server, allowed_addresses=frozenset()))
    assert (report.used, quarantine.counts, server.asked) == (0, {"fetch_address": 1}, [])


def test_a_redirect_to_a_private_address_is_refused(tmp_path: Path, server: Server) -> None:
    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == HOST else ["169.254.169.254"]

    path = rows_of(tmp_path, f"https://{HOST}/to-meta.many.test/secret")
    report, quarantine = run(path, policy_for(server, resolve=resolve))
    assert (report.used, quarantine.counts) == (0, {"fetch_address": 1})
    assert server.asked == [f"127.0.0.1:{server.server_address[1]}/to-meta.many.test/secret"]


def test_the_cap_on_all_bytes_stops_the_rest(tmp_path: Path, server: Server) -> None:
    path = rows_of(tmp_path, *(f"https://{HOST}/{name}" for name in ("red.png", "blue.png")))
    _, quarantine = run(path, policy_for(server, max_total_bytes=10))
    assert quarantine.counts == {"fetch_total": 2}


def test_no_host_is_allowed_by_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no host is allowed"):
        run(rows_of(tmp_path, f"https://{HOST}/red.png"), FetchPolicy())


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, server: Server) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / FOLDER).write_text("a file")
    with pytest.raises(CheckpointError, match="cannot write below"):
        run(rows_of(tmp_path, f"https://{HOST}/red.png"), policy_for(server))


def test_the_connection_goes_to_the_checked_address_and_proves_the_hosts_name(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of our own making: accepted for its name only, whatever the address."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    server.socket = serving.wrap_socket(server.socket, server_side=True)
    trusted = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusted)
    reached: list[Any] = []
    connect = socket.create_connection

    def through(address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        reached.append(address)
        return connect(("127.0.0.1", server.server_address[1]), timeout)

    monkeypatch.setattr(socket, "create_connection", through)
    policy = replace(POLICY, resolve=lambda *_: ["1.1.1.1"], attempts=1)
    path = rows_of(tmp_path, f"https://{HOST}/red.png", "https://other.many.test/red.png")
    report, quarantine = run(path, policy)
    assert report.used == 1
    assert reached == [("1.1.1.1", 443)] * 2
    (other,) = quarantine.rows
    assert (other.reason, "CERTIFICATE_VERIFY_FAILED" in other.detail) == ("fetch_failed", True)
