"""A server that sends the API key back, in every way we could think of: it is in no file and on no screen."""

import base64
import contextlib
import gzip
import html
import json
import os
import re
import subprocess
import sys
import urllib.parse

import pytest

from mmpref import api_keys
from mmpref.errors import ConfigError
from mmpref.files.writing import json_text
from mmpref.generation.api_server import Server
from mmpref.generation.chat_api import ChatClient
from mmpref.generation.concurrency import ItemFailed
from tests.chat_server import whole_reply
from tests.raw_server import RawServer, read_request
from tests.unit.evals.test_judge import MMHAL_ROWS

KEY = 'sk-Very/Secret+"q&<0123456789>'
PLAIN = "sk-very-secret-0123456789"


def escaped(key):
    return "".join(f"\\u{ord(char):04x}" for char in key)


def pieces(key):
    return [key[place : place + 4] for place in range(0, len(key), 4)]


SHAPES = {
    "as it is": lambda key: key,
    "upper case": str.upper,
    "JSON escapes": escaped,
    "JSON escapes twice": lambda key: escaped(key).replace("\\", "\\\\"),
    "JSON in JSON": json.dumps,
    "escaped slashes": lambda key: json.dumps(key).replace("/", "\\/"),
    "URL": lambda key: urllib.parse.quote(key, safe=""),
    "URL, every letter": lambda key: "".join(f"%{ord(char):02X}" for char in key),
    "URL twice": lambda key: urllib.parse.quote(urllib.parse.quote(key, safe="")),
    "HTML": html.escape,
    "HTML numbers": lambda key: "".join(f"&#{ord(char)};" for char in key),
    "HTML hexadecimal": lambda key: "".join(f"&#x{ord(char):x};" for char in key),
    "HTML twice": lambda key: html.escape(html.escape(key)),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of the header": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(f"x{key}y".encode()).decode(),
    "base64 twice": lambda key: base64.b64encode(base64.b64encode(key.encode())).decode(),
    "base64 in lines": lambda key: base64.encodebytes(key.encode() * 4).decode(),
    "base32": lambda key: base64.b32encode(key.encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "hexadecimal with colons": lambda key: key.encode().hex(":").upper(),
    "codes": lambda key: str(list(key.encode())),
    "repr of bytes": lambda key: repr(key.encode()),
    "\\x": lambda key: "".join(f"\\x{ord(char):02x}" for char in key),
    "quoted-printable": lambda key: "".join(f"={ord(char):02X}" for char in key),
    "full width": lambda key: "".join(chr(ord(char) + 0xFEE0) for char in key),
    "zero width between": "\u200b".join,
    "broken over lines": lambda key: key[:9] + "\n" + key[9:],
    "blanks between": " ".join,
    "backwards": lambda key: key[::-1],
    "most of it": lambda key: key[:-3] + "...",
    "all but the beginning": lambda key: "..." + key[4:],
    "points between": ".".join,
    "commas between": ", ".join,
    "bars between": " | ".join,
    "lines between": "\n".join,
    "a list of characters": lambda key: json.dumps(list(key)),
    "a list of characters in lines": lambda key: json.dumps(list(key), indent=4),
    "a list of pieces": lambda key: json.dumps(pieces(key)),
    "pieces with points": lambda key: ".".join(pieces(key)),
    "pieces with bars": lambda key: " | ".join(pieces(key)),
    "pieces in lines": lambda key: "\n".join(pieces(key)),
    "pieces in quotes, added": lambda key: "' + '".join(pieces(key)),
    "without its marks": lambda key: "".join(filter(str.isalnum, key)),
    "points between, backwards": lambda key: ".".join(key[::-1]),
    "base85": lambda key: base64.b85encode(key.encode()).decode(),
    "base85 of the header": lambda key: base64.b85encode(f"Bearer {key}".encode()).decode(),
    "Adobe's base85": lambda key: base64.a85encode(key.encode()).decode(),
    **{f"base85, {n} ahead": lambda key, n=n: base64.b85encode(b"x" * n + key.encode()).decode() for n in range(1, 4)},
}


def test_every_shape_is_cut_and_nothing_beside_it():
    for key in (KEY, PLAIN):
        api_keys.remember(key)
        for name, shape in SHAPES.items():
            found = api_keys.cut(f"before {shape(key)} after")
            assert (name, shows(found, key), "[API key]" in found) == (name, [], True)
            assert (name, found.startswith("before "), found.endswith(" after")) == (name, True, True)


@pytest.mark.parametrize("key", [PLAIN, "this-is-not-a-real-key", "12345678901234567890", "my secret password"])
def test_words_and_numbers_in_a_row_are_no_key(key):
    api_keys.remember(key)
    for text in (
        "This is not a real key. It is not.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0",
        "sk very secret", "0123456789", "Very secret, 1 2 3", "my 'secret': password",
    ):  # fmt: skip
        assert api_keys.cut(text) == text
        assert api_keys.cut_all(text.split()) == text.split()


def test_a_list_of_pieces_is_cut_as_one():
    api_keys.remember(PLAIN)
    for broken in (list(PLAIN), pieces(PLAIN), [*PLAIN[:-2], 8, 9]):
        assert api_keys.cut_all({"meta": {"a": broken}, "b": ["c", 1]}) == {"meta": {"a": ["[API key]"]}, "b": ["c", 1]}
    assert api_keys.cut_all(["x", f"a {PLAIN}", 1]) == ["x", "a [API key]", 1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("key", ["a1-b2-c3", "sk-012345678901", PLAIN])
def test_a_body_in_another_encoding_does_not_show_the_key(monkeypatch, encoding, key):
    monkeypatch.setenv("MY_KEY", key)
    for before in ("<p>", "\u00e9", "\u6f22\u5b57", '{"error": {"message": "'):
        body = f'{before}wrong key {key}, or {"/".join(key)}"}}}}'.encode(encoding)

        def speak(connection, closing, body=body):
            read_request(connection)
            connection.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        with RawServer(speak).running() as server:
            client = ChatClient(Server(url=server.url, model="m", key_env="MY_KEY", attempts=1))
            with pytest.raises(ItemFailed) as caught:
                client.complete([], max_tokens=1)
            client.close()
        said = str(caught.value)
        # one of fewer than 16 characters is guarded as a whole; the second time it stands in pieces
        assert key not in (said if len(key) < 16 else re.sub(r"[\s/]", "", said))
        assert " ".join(key) not in said
        assert "[API key]" in said


@pytest.mark.parametrize(
    "given",
    [
        "sk-proj-veryverysecret0123456789", "hf_abcdefghijklmnopqrstuvwxyz", "sk_live_abcdefgh", "gsk_QQQQ",
        "d41d8cd98f00b204e9800998ecf8427e", "ABCDEFGHIJKLMNOPQRSTUVWX", "QwErTyUiOpAs", "secret key", "a-b", "1KEY",
        "AIzaSyA", "caf\u00e9",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["judge", "eval", "eval by judge"])
def test_a_key_in_the_place_of_its_variable_s_name_is_not_repeated(tmp_path, capsys, given, command):
    from mmpref.cli.main import main

    (tmp_path / "q.json").write_text(json.dumps(MMHAL_ROWS))
    (tmp_path / "a.jsonl").write_text('{"id": "i0", "text": "a"}\n')
    words = [command.split()[0], "--benchmark", "mmhal", "--questions", str(tmp_path / "q.json"), "--model", "m"]
    words += ["--out", str(tmp_path / "o.jsonl")]
    words += ["--answers", str(tmp_path / "a.jsonl")] if command == "judge" else ["--image-root", str(tmp_path)]
    words += ["--server", "http://127.0.0.1:9"]
    if command == "eval by judge":
        words += ["--judge-server", "http://127.0.0.1:9", "--judge-model", "j", "--judge-key-env", given]
    else:
        words += ["--key-env", given]
    assert main(words) == 2
    said = "".join(capsys.readouterr())
    assert "takes the NAME of an environment variable" in said
    assert given not in said
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize("name", ["MY_KEY", "OPENAI_API_KEY", "openai_api_key", "AZURE_KEY_2", "KEY_2024A", "myKey"])
def test_a_variable_that_is_not_set_is_named(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    if sum(map(str.isdigit, name)) > 3:
        name = name.replace("2024", "24")
    with pytest.raises(ConfigError, match=f"the environment variable {name}, which should hold the API key, is not"):
        Server(url="http://h", model="m", key_env=name).key()


@pytest.mark.parametrize("name", ["sk-proj-veryverysecret0123456789", "my-key", "d41d8cd98f00b204e9800998ecf8427e"])
def test_a_variable_with_an_odd_name_is_used_where_it_is_set(monkeypatch, name):
    monkeypatch.setenv(name, "value-of-it")
    assert Server(url="http://h", model="m", key_env=name).key() == "value-of-it"


def test_texts_without_a_key_stay_as_they_are():
    for key in (KEY, PLAIN):
        api_keys.remember(key)
    for text in ("Very secret: a \\u0041 in C:\\new, 50% of <b> &amp; =3D", "sk-very", "0123456", "\ud83d", "é\u0301"):
        assert api_keys.cut(text) == text
        assert api_keys.cut_all({"a": [text, 1, None]}) == {"a": [text, 1, None]}


def test_a_short_key_is_cut_where_it_is_no_word():
    for key in ("a1-b2", "cup", "table", "1234"):
        api_keys.remember(key)
    said = "a table, a cup and 1234 tablets; a1-b2, xa1-b2"
    assert api_keys.cut(said) == "a table, a cup and 1234 tablets; [API key], xa1-b2"
    assert api_keys.cut("wrong key table", of_message=True) == "wrong key [API key]"


def test_no_file_of_results_can_hold_a_key():
    api_keys.remember(PLAIN)
    assert PLAIN not in json_text({PLAIN: [f"x {PLAIN}", {"y": base64.b64encode(PLAIN.encode()).decode()}]})


@pytest.fixture(autouse=True)
def no_keys_are_left():
    before = dict(api_keys._KEYS)
    yield
    api_keys._KEYS.clear()
    api_keys._KEYS.update(before)


# --- what a stranger could read out of a text -------------------------------------------------------------------------


def shows(text, key):
    """The ways in which a text still holds the key: decoded by other means than those that cut it."""
    texts = {"raw": text}
    for level in range(3):
        for name, one in list(texts.items()):
            texts[f"{name}, JSON {level}"] = (
                re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), one)
                .replace("\\/", "/")
                .replace('\\"', '"')
            )
            texts[f"{name}, URL {level}"] = urllib.parse.unquote(one)
            texts[f"{name}, HTML {level}"] = html.unescape(one)
        texts = {name: one for name, one in texts.items() if list(texts.values()).count(one) == 1 or name == "raw"}
    found = []
    for name, one in texts.items():
        plain = re.sub(r"[\s\u200b]", "", one).lower()
        shown = (key.lower(), key.lower()[::-1])
        found += [name] * (any(one in plain for one in shown) or key.encode().hex() in plain.replace(":", ""))
        apart = "".join(filter(str.isalnum, plain))
        found += [f"{name}, in pieces"] * any("".join(filter(str.isalnum, one)) in apart for one in shown)
        for run in re.findall(r"[!-~]{16,}", one):
            for decode in (base64.b85decode, base64.a85decode):
                with contextlib.suppress(ValueError):
                    found += [f"{name}, base85"] * (key.encode() in decode(run))
        for run in re.findall(r"[A-Za-z0-9+/_-]{16,}", re.sub(r"\s", "", one)):
            for ahead in range(4):
                for _ in range(2):
                    piece = run[ahead:].replace("-", "+").replace("_", "/").rstrip("=")
                    piece = piece[: len(piece) - (len(piece) % 4 == 1)]
                    decoded = base64.b64decode(piece + "=" * (-len(piece) % 4)).decode("latin-1")
                    found += [f"{name}, base64"] * (key in decoded)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "as it is", "JSON escapes twice", "URL twice", "HTML twice", "base64 of the header", "points between",
        "a list of pieces", "points between, backwards", "base85", "Adobe's base85",
    ],
)  # fmt: skip
def test_the_search_for_leaks_finds_them(name):
    assert shows(f"x {SHAPES[name](PLAIN)} y", PLAIN)


# --- whole runs -------------------------------------------------------------------------------------------------------


def replies(key, say):
    """HTTP replies that hold the key, each in another place or shape: (status line and headers, body)."""
    good = [
        *({"content": say(f"word {shape(key)}")} for shape in SHAPES.values()),
        {"content": [{"type": "text", "text": say("word " + key)[:-20]}, {"text": say("word " + key)[-20:]}]},
        {"content": say("word"), "reasoning_content": f"I know {key}"},
    ]
    for message in good:
        yield "200 OK", "", json.dumps(whole(message, key)).encode()
    reply = whole({"content": say(f"word {key}")}, key) | {"usage": {"prompt_tokens": key}}
    content = json.dumps(reply).encode()
    yield "200 OK", f"X-Key: {key}", content
    yield "200 OK", "", content.replace(b"/", b"\\/")
    yield "200 OK", "", re.sub(rb"(?<!\\)[S-Z]", lambda found: b"\\u%04x" % ord(found[0]), content)
    yield "200 OK", "Content-Encoding: gzip", gzip.compress(content)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
    yield "200 OK", "Transfer-Encoding: chunked", chunks + b"0\r\n\r\n"
    for shape in SHAPES.values():
        said = {"error": {"message": f"bad {shape(key)}", "code": shape(key)}}
        yield "400 Bad", f"X-Debug: {key}", json.dumps(said).encode()
    for status in ("422 Bad", f"503 {key}"):
        yield status, "", f"<html>{html.escape(key)}</html>".encode()
        yield status, "", json.dumps(["x" * 290 + key]).encode()
    yield "200 OK", "", json.dumps({"choices": [{"message": {"refusal": f"no {key}"}}]}).encode()
    yield "200 OK", "", json.dumps({"choices": [{"message": {"content": None}}], key: key}).encode()
    yield f"200 {key}\x01", f"bad header {key}", b""
    yield "200 OK", f"Content-Encoding: {key}", b"x"
    yield "200 OK", f"Content-Length: {key}", b"x"
    yield "200 OK", "", (b"[" * 200_000) + key.encode()


def whole(message, key):
    reply = whole_reply("", f"m {key}") | {"system_fingerprint": f"fp {key}"}
    reply["choices"][0]["message"] |= message
    return reply


def served(every, log, say):
    """A server that gives these replies in turn, and now and then a good one, so that a run goes on."""

    def speak(connection, closing):
        request = read_request(connection)
        log.append(request)
        fence = re.search(rb'fence\\": \\"(\w+)', request)
        if request.startswith(b"GET"):
            line, headers, body = "200 OK", "", json.dumps({"data": [{"id": "m", "root": f"/models/{KEY}"}]}).encode()
        elif len(log) % 8 == 0:
            line, headers, body = "200 OK", "", json.dumps(whole({"content": say("word")}, KEY)).encode()
        else:
            line, headers, body = every[len(log) % len(every)]
        body = body.replace(b"@FENCE@", fence[1]) if fence else body
        length = (
            "" if "-Encoding: chunked" in headers or "Content-Length" in headers else f"Content-Length: {len(body)}\r\n"
        )
        head = f"HTTP/1.1 {line}\r\n{headers + chr(13) + chr(10) if headers else ''}{length}Connection: close\r\n\r\n"
        connection.sendall(head.encode("latin-1") + body)

    return RawServer(speak)


def artefacts(folder):
    return {file.name: file.read_bytes().decode("utf-8", "replace") for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("command", [pytest.param("eval", marks=pytest.mark.slow), "judge"])
def test_whole_runs_write_and_say_the_key_nowhere(tmp_path, command):
    from PIL import Image

    def say(text):
        return json.dumps({"fence": "@FENCE@", "reason": text, "score": 3}) if command == "judge" else text

    log, every = [], list(replies(KEY, say))
    rows = [{**MMHAL_ROWS[0], "image_id": f"i{n}", "question": f"What is {n}?"} for n in range(9 * len(every) // 8)]
    Image.new("RGB", (20, 20)).save(tmp_path / "0.jpg")
    (tmp_path / "q.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": r["image_id"], "text": r["question"]}) + "\n" for r in rows)
    )
    given = ["--answers", tmp_path / "a.jsonl"] if command == "judge" else ["--image-root", tmp_path]
    out = tmp_path / "out" / ("v.jsonl" if command == "judge" else "")
    with served(every, log, say).running() as server:
        done = subprocess.run(
            [sys.executable, "-m", "mmpref", command, "--benchmark", "mmhal", "--questions", tmp_path / "q.json",
             "--server", server.url, "--model", "m", "--out", out, "--key-env", "MY_KEY", "--concurrency", "1", *given],
            env={**os.environ, "MY_KEY": KEY}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 8, done.stderr
    assert "Traceback" not in done.stderr
    assert sum(KEY.encode() in request for request in log) == len(log) > len(every)
    texts = {"stdout": done.stdout, "stderr": done.stderr, **artefacts(tmp_path / "out")}
    assert "[API key]" in "".join(texts.values())
    assert {"v.jsonl", "v.cache.jsonl"} <= texts.keys() or {"answers.jsonl", "settings.json"} <= texts.keys()
    assert {name: shows(text, KEY) for name, text in texts.items()} == {name: [] for name in texts}


@pytest.mark.parametrize("status", ["401 No", "403 No", "404 No", "302 Found", "307 Found"])
def test_what_ends_a_run_does_not_say_the_key(monkeypatch, status):
    monkeypatch.setenv("MY_KEY", KEY)

    def speak(connection, closing):
        read_request(connection)
        body = json.dumps({"error": {"message": f"wrong: {KEY} {escaped(KEY)}"}}).encode()
        head = f"HTTP/1.1 {status}\r\nLocation: http://h/{KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with RawServer(speak).running() as server:
        client = ChatClient(Server(url=server.url, model="m", key_env="MY_KEY", attempts=1))
        with pytest.raises((ConfigError, ItemFailed)) as caught:
            client.complete([], max_tokens=1)
        client.close()
    chain, err = [], caught.value
    while err is not None:
        chain, err = [*chain, f"{err} {err!r} {vars(err)}"], err.__cause__ or err.__context__
    assert shows(" ".join(chain), KEY) == []
    assert shows(f"{client.server!r} {vars(client)}", KEY) == []
