"""Files damaged as disks, editors and other tools damage them: seeded, so that a failure can be had again."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\t\r\n",
    "NUL": b"\0" * 64,
    "no UTF-8": b"\xff\xfe\xfa{}",
    "UTF-16": '{"a": 1}\n'.encode("utf-16"),
    "gzip": gzip.compress(b'{"id": "a", "text": "b"}\n', mtime=0),
    "null": b"null",
    "a number": b"7",
    "a text": b'"text"',
    "list": b"[]",
    "list of lists": b"[[1], [2]]",
    "object": b"{}",
    "brackets": b"[" * 200_000,
    "objects": b'{"a":' * 100_000,
    "closed brackets": b"[" * 100_000 + b"]" * 100_000,
    "digits": b'{"id": ' + b"9" * 5000 + b"}",
    "exponent": b'{"id": 1e999999, "step": 1e400}',
    "NaN": b'{"id": NaN, "step": Infinity}',
    "key twice": b'{"id": 1, "id": 2}',
    "half a character": b'{"id": "\\ud800", "text": "\\udfff"}',
    "lone CR": b'{"id": 1}\r{"id": 2}\r',
    "BOM twice": b'\xef\xbb\xbf\xef\xbb\xbf{"id": 1}',
    "half a line": b'{"id": 1, "te',
    "parquet's letters": b"PAR1" + b"\xff" * 40 + b"PAR1",
    "a zip's letters": b"PK\x03\x04" + b"\0" * 100,
}
"""What a whole file can be instead of what it should."""
_PIECES = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\t", b"[" * 3000, b"{" * 3000, b"9" * 5000, b"-", b'"', b"'",
    b"\\", b"\\ud800", b"&a ", b"*a ", b"!!int ", b"!!python/object:os.system ", b"<<: ", b"---\n", b"...\n", b"? ",
    b"| ", b"> ", b"%", b"@", b"`", b"#", b": ", b", ", b"null", b"~", b".inf", b"NaN", b"1e999", b"0x1F", b"true",
    "\u2028\u202e\u0085".encode(), "\U0001f600".encode(), b"x" * 300, b"../" * 50, b"\x1b[2J", b"${HOME}", b"{}", b"[]",
)  # fmt: skip
_VALUES = (None, True, 0, -1, 2**63, 10**40, 1.5, "", " ", "x" * 400, "a\nb", "\0", [], {}, [[]], [None], {"a": {}})


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 40))):
        if made:
            made[rng.randrange(len(made))] = rng.randrange(256)
    return bytes(made)


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_PIECES) + data[at:]


def _take_out(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.randrange(1, 20) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(data) + 1)
    piece = data[first : first + rng.randrange(1, 80)]
    return data[:first] + piece * rng.choice((2, 3, 200)) + data[first:]


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def _another_value(data: bytes, rng: random.Random) -> bytes:
    """One value of the JSON (or of one of its lines) is another; other files get a piece."""
    whole = True
    try:
        content = json.loads(data)
    except ValueError:
        whole = False
        lines = data.decode("utf-8", "replace").splitlines()
        place = rng.randrange(max(1, len(lines)))
        try:
            content = json.loads(lines[place])
        except (ValueError, IndexError):
            return _insert(data, rng)
    node, places = content, []
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        places.append((node, key))
        node = node[key]
    if not places:
        return _insert(data, rng)
    holder, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = rng.choice(_VALUES)
    if whole:
        return json.dumps(content).encode()
    lines[place] = json.dumps(content)
    return "\n".join(lines).encode()


_WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut, _flip, _insert, _insert, _take_out, _repeat, _lines, _another_value, _another_value,
)  # fmt: skip


def mutated(data: bytes, seed: int) -> bytes:
    """The file after one to three faults."""
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_WAYS)(data, rng)
    return data
