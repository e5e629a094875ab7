"""Files damaged as disks, editors and other tools damage them: seeded, so that a failure can be had again."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator

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
ODD_VALUES = (
    "1e999", ".inf", "nan", "-0", "9" * 40, "9" * 5000, "null", "~", "true", "[]", "{}", "[" * 5000,
    "{a: " * 2000, "*a", "&a 1",
    "!!binary aGk=", "!!python/name:os.system x", "!!timestamp x", "? [a]", "{<<: {a: 1}}", "'", '"',
    '"\\uD800"', '"\\0"',
    '"\\UFFFFFFFF"', "|\n a", "a\tb", "\u2028", "a: b: c", "@x", "`x", "%x", "--- a", "# x", "x # y", "é" * 2000,
    "1_000", "0x10", "012", "1e-400", "{'a b': 1}", "{1: 2}", "{[a]: 2}", "- a", "x" * 100_000,
)  # fmt: skip
ODD_TEXTS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 200_000, b"{" * 200_000, b'{"a":' * 100_000, b"9" * 5000,
    b"1e999", b"NaN",
    b"-Infinity", b'"\\ud800"', b"\r", b"\x1b[31m", b'"', b"\\", b",", b"null", b"[]", b"{}", b"true", b"---\n", b"\t",
    b"&a [*a]", b"*a", b"!!binary ", b"? ", b"<<: ", b"\x85", "\u2028".encode(), b"\n" * 3, b"1e400", b'"x" ' * 40,
)  # fmt: skip


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 3, 30))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def inserted(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.choice(ODD_TEXTS) + content[place:]


def replaced(content: bytes, chance: random.Random) -> bytes:
    """A word or a number gives way to something odd."""
    words = [
        part for part in content.replace(b'"', b" ").replace(b":", b" ").replace(b",", b" ").split() if len(part) > 1
    ]
    if not words:
        return chance.choice(ODD_TEXTS)
    return content.replace(chance.choice(words), chance.choice(ODD_TEXTS), chance.choice((1, -1)))


def shuffled(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    for _ in range(chance.choice((1, 4))):
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    if chance.random() < 0.5:
        chance.shuffle(lines)
    return b"".join(lines)


def encoded(content: bytes, chance: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    ways: list[Callable[[], bytes]] = [
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-32"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.replace(b"\n", b"\r"),
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: gzip.compress(content),
        lambda: b"PK\x03\x04" + content,
        lambda: b"PAR1" + content,
        lambda: content * 300,
        lambda: b"",
    ]
    return chance.choice(ways)()


def retyped(content: bytes, chance: random.Random) -> bytes:
    """A value of JSON, somewhere in it, becomes one of another type; of other files a line does."""
    odd = [
        None,
        True,
        7,
        -1,
        10**400,
        1e308,
        "x",
        "",
        "\ud800",
        [],
        {},
        [[]],
        [None],
        {"a": None},
        ["x"] * 1000,
        float("nan"),
    ]
    text = content.decode("utf-8", "replace")
    lines = [text] if text.lstrip()[:1] in "[{" and text.count("\n{") == 0 else text.split("\n")
    place = chance.randrange(len(lines))
    try:
        tree = json.loads(lines[place])
    except ValueError:
        lines[place] = f"{lines[place].partition(':')[0]}: {chance.choice(ODD_VALUES[:40])}"
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    spots = list(spots_in(tree))
    if not spots:
        return inserted(content, chance)
    node, key = chance.choice(spots)
    node[key] = chance.choice(odd)
    lines[place] = json.dumps(tree)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def spots_in(tree: object) -> Iterator[tuple[dict[object, object] | list[object], object]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key  # type: ignore[misc]
        yield from spots_in(value)


DAMAGES = (truncated, flipped, inserted, replaced, shuffled, encoded, retyped, retyped)


def damaged(content: bytes, seed: str) -> bytes:
    """The file after one or two damages."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 2))):
        content = chance.choice(DAMAGES)(content or b"\n", chance)
    return content
