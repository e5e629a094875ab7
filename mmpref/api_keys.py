"""API keys, kept out of everything that is written or said.

Whoever reads a key from the environment calls :func:`remember`; from then on :func:`cut` takes it out of texts, and
:func:`cut_all` out of decoded JSON. A server may send a key back in another shape, so a text is compared as it reads
once escapes (JSON, URL, HTML, quoted-printable), other letter case, full-width letters and invisible characters are
undone, also several of them on top of each other; and base64, base32, base85, hexadecimal, decimal codes, rot13 and the
reversed key are looked for as well.

The rule by length, so that no ordinary word is cut:

- 16 characters and more: anywhere, also with blanks or line breaks inside, and pieces of at least half of it (and 12).
  Also cut up by other marks (``sk-.ve.ry``, a list of its pieces): the letters and digits in their order, and nothing
  but marks between them. In an answer only when it mixes letters and digits; words in a row are no key.
- 8 to 15: anywhere, whole.
- 4 to 7: as a word of its own, in its own letter case. In an answer only when it mixes letters with digits or marks: a
  key that is a plain word or a number (``EMPTY``) cannot be distinguished from what a model says.
- fewer: not at all. Nothing is guarded by three characters.
"""

from __future__ import annotations

import base64
import codecs
import functools
import html
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MARK = "[API key]"
_WHOLE_FROM, _PIECES_FROM, _ALONE_FROM = 8, 16, 4
_SHORTEST_PIECE = 12
_SHORTEST_APART = 16
_LEVELS = 5
_KEYS: dict[str, None] = {}

_ESCAPE = re.compile(
    r"\\+(?:u\{(?P<braced>[0-9a-fA-F]{1,6})\}|u(?P<four>[0-9a-fA-F]{4})|U(?P<eight>[0-9a-fA-F]{8})"
    r"|x(?P<two>[0-9a-fA-F]{2})|(?P<octal>[0-3][0-7]{2})|(?P<control>[nrtbf])|(?P<itself>[^\w\s]))"
    r"|%(?P<percent>[0-9a-fA-F]{2})|=(?P<quoted>[0-9A-F]{2})"
    r"|(?P<entity>&(?:\#[0-9]{1,8}|\#[xX][0-9a-fA-F]{1,7}|[A-Za-z][A-Za-z0-9]{1,31});?)"
)
_HEX = ("braced", "four", "eight", "two", "percent", "quoted")
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-")
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff\\\\]"
)


_BEGINNINGS = (
    "sk-", "sk_", "pk-", "pk_", "rk_", "hf_", "gsk_", "xai-", "AIza", "ghp_", "gho_", "github_pat_",
    "glpat-", "pplx-", "nvapi-", "r8_", "tgp_", "fw_", "csk-", "eyJ", "Bearer",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def may_be_key(name: str) -> bool:
    """Whether what was given as the name of an environment variable may be the API key itself, so that no message may
    say it. A name that people choose has words of one letter case and next to no digits."""
    if _NAME.fullmatch(name) is None or name.startswith(_BEGINNINGS) or sum(map(str.isdigit, name)) > 3:
        return True
    one_case = name in (name.upper(), name.lower())
    return max(map(len, name.split("_"))) > (16 if one_case else 11)


def remember(key: str) -> None:
    """Cut this key from now on; one that is too short for it is not kept."""
    if len(key) >= _ALONE_FROM:
        _KEYS[key] = None


def cut(text: str, *, of_message: bool = False) -> str:
    """The text without any key that was remembered.

    Args:
        of_message: the text is an error or a header, which may lose a word; what a model said may not.
    """
    for key in _KEYS:
        text = _without(text, key, of_message=of_message)
    return text


def cut_all(content: Any) -> Any:
    """The same JSON value with the keys cut out of every text in it, names of fields too."""
    if not _KEYS:
        return content
    if isinstance(content, str):
        return cut(content)
    if isinstance(content, Mapping):
        return {cut(name) if isinstance(name, str) else name: cut_all(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        whole = [str(value) for value in content if isinstance(value, str | int)]
        if len(whole) > 1 and cut(said := " ".join(whole)) != said:  # one key in pieces, or some that contain one each
            found = [cut_all(value) for value in content]
            whole = [str(value) for value in found if isinstance(value, str | int)]
            return found if cut(said := " ".join(whole)) == said else [MARK]
        return [cut_all(value) for value in content]
    return content


@dataclass(frozen=True, slots=True)
class _Unit:
    """One character as it reads, and the place in the text that it was written at."""

    char: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Form:
    """A way in which a key may be written in a text that was brought to one reading."""

    text: str
    least: int
    """Characters in a row that are enough to be cut."""
    alone: bool = False


def _without(text: str, key: str, *, of_message: bool) -> str:
    if len(key) >= _WHOLE_FROM:
        text = text.replace(key, MARK)
    elif not (of_message or _is_mixed(key)):
        return text
    squeezed = len(key) >= _PIECES_FROM
    fold = len(key) >= _WHOLE_FROM
    apart = _apart(key, of_message)
    for _ in range(4):  # what is cut may bring pieces of a second one together
        read = _reading(text, squeezed, fold)
        if any(_spans(read, key)):
            units = _units(text, squeezed, fold)
            spans = sorted(_spans("".join(unit.char for unit in units), key))
        elif apart and any(_spans_apart("".join(filter(str.isalnum, read)), apart)):
            units = [unit for unit in _units(text, squeezed, fold) if unit.char.isalnum()]
            spans = sorted(_spans_apart("".join(unit.char for unit in units), apart))
        else:
            return text
        out, done = [], 0
        for first, last in spans:
            begin, end = units[first].begin, units[last - 1].end
            if end <= done:
                continue
            if begin >= done:
                out += [text[done:begin], MARK]
            done = end
        text = "".join(out) + text[done:]
    return text


def _is_mixed(key: str) -> bool:
    return any(char.isalpha() for char in key) and not key.isalpha()


# --- one reading of a text --------------------------------------------------------------------------------------------


def _reading(text: str, squeezed: bool, fold: bool) -> str:
    """The text as it reads; the quick way, without the places."""
    for _ in range(_LEVELS):
        plain = _ESCAPE.sub(_meant, text)
        if plain == text:
            break
        text = plain
    return _plain(text, squeezed, fold)


def _plain(text: str, squeezed: bool, fold: bool) -> str:
    found = _UNSEEN.sub("", unicodedata.normalize("NFKC", text)).translate(_DASHES)
    found = "".join(found.split()) if squeezed else found
    return found.lower() if fold else found


def _units(text: str, squeezed: bool, fold: bool) -> list[_Unit]:
    """The same with the place of every character; slow, and only asked for where a key was found."""
    units = [_Unit(char, place, place + 1) for place, char in enumerate(text)]
    for _ in range(_LEVELS):
        now, out, done = "".join(unit.char for unit in units), [], 0
        for found in _ESCAPE.finditer(now):
            meant = _meant(found)
            if meant == found[0]:
                continue
            out += units[done : found.start()]
            out += [_Unit(char, units[found.start()].begin, units[found.end() - 1].end) for char in meant]
            done = found.end()
        if not done:
            break
        units = [*out, *units[done:]]
    return [_Unit(char, unit.begin, unit.end) for unit in units for char in _plain(unit.char, squeezed, fold)]


def _meant(found: re.Match[str]) -> str:
    for name in _HEX:
        if (digits := found[name]) is not None:
            return _char(int(digits, 16), found[0])
    if (digits := found["octal"]) is not None:
        return chr(int(digits, 8))
    if found["control"] is not None:
        return "\n" if found["control"] == "n" else "\t"
    if found["itself"] is not None:
        return found["itself"]
    return html.unescape(found[0])


def _char(code: int, otherwise: str) -> str:
    return chr(code) if code <= 0x10FFFF else otherwise


# --- the forms of a key ----------------------------------------------------------------------------------------------


def _spans(reading: str, key: str) -> Iterator[tuple[int, int]]:
    """Where the key is in a text that was brought to one reading, as (first, behind the last)."""
    forms, codes = _forms(key)
    for form in forms:
        yield from _runs(reading, form)
    for pattern in codes:
        yield from (found.span() for found in pattern.finditer(reading))


def _spans_apart(letters: str, forms: tuple[_Form, ...]) -> Iterator[tuple[int, int]]:
    """Where the key is in the letters and digits of a text."""
    for form in forms:
        yield from _runs(letters, form)


@functools.lru_cache(maxsize=32)
def _apart(key: str, of_message: bool) -> tuple[_Form, ...]:
    """The letters and digits of a key, possibly with marks between them; none where words in a row could be it."""
    letters = "".join(filter(str.isalnum, _plain(key, True, True)))
    if len(key) < _PIECES_FROM or len(letters) < _SHORTEST_PIECE:
        return ()
    if not of_message and (letters.isalpha() or letters.isdigit()):
        return ()
    least = max(min(len(letters), _SHORTEST_APART), 3 * len(letters) // 4)
    return tuple(_Form(text, least) for text in (letters, letters[::-1]))


@functools.lru_cache(maxsize=16)
def _forms(key: str) -> tuple[tuple[_Form, ...], tuple[re.Pattern[str], ...]]:
    squeezed, fold = len(key) >= _PIECES_FROM, len(key) >= _WHOLE_FROM
    raw = key.encode()
    # as it is written, and as it reads where it contains escapes itself
    plain = {_reading(key, squeezed, fold), _plain(key, squeezed, fold)}
    once = {core for core, _ in _base64(raw)}
    encoded = once | {core for inner in once for core, _ in _base64(inner.encode())}
    encoded |= {base64.b32encode(raw).decode().rstrip("=")[:-1], raw.hex(), raw.hex().upper()}
    encoded |= set(_base85(raw)) if squeezed else set()
    if fold:
        encoded |= {codecs.encode(key, "rot13"), key[::-1]}
    forms = [_Form(text, _enough(text), alone=not fold) for text in plain if text]
    encoded = {read(one, squeezed, fold) for one in encoded for read in (_plain, _reading)}
    forms += [_Form(text, _enough(text)) for text in encoded if len(text) >= 8]
    if not fold:
        return tuple(forms), ()
    gap = r"[\s,;:\[\](){}-]{0,3}"
    hexadecimal = gap.join(rf"(?:0x)?{byte:02x}" for byte in raw)
    decimal = r"[\s,;]{1,3}".join(str(byte) for byte in raw) if not squeezed else r"[,;]".join(map(str, raw))
    return tuple(forms), (re.compile(hexadecimal), re.compile(rf"(?<!\d){decimal}(?!\d)"))


def _enough(text: str) -> int:
    return max(_SHORTEST_PIECE, (len(text) + 1) // 2) if len(text) >= _PIECES_FROM else len(text)


def _base64(raw: bytes) -> Iterator[tuple[str, int]]:
    """What base64 has for these bytes wherever they are in a longer text, in both alphabets."""
    for ahead in range(3):
        whole = base64.b64encode(b"\0" * ahead + raw).decode().rstrip("=")
        core = whole[(0, 2, 3)[ahead] :]
        core = core if (len(raw) + ahead) % 3 == 0 else core[:-1]
        yield core, ahead
        yield core.replace("+", "-").replace("/", "_"), ahead


def _base85(raw: bytes) -> Iterator[str]:
    """What the two base85s have for these bytes: five characters for every four that lie in one group."""
    for encode in (base64.b85encode, base64.a85encode):
        for ahead in range(4):
            inner = raw[(4 - ahead) % 4 :]
            yield encode(inner[: len(inner) // 4 * 4]).decode()
        yield encode(raw).decode()


def _runs(text: str, form: _Form) -> Iterator[tuple[int, int]]:
    """Every longest run of at least ``form.least`` characters that text and form share.

    Such a run contains one whole block of half that length, so the blocks are searched for and the finds grown.
    """
    size = form.least if form.least == len(form.text) else form.least // 2
    behind = 0
    for place in range(0, len(form.text) - size + 1, size):
        block, found = form.text[place : place + size], -1
        while (found := text.find(block, found + 1)) >= 0:
            first, last, left, right = found, found + size, place, place + size
            while first > 0 and left > 0 and text[first - 1] == form.text[left - 1]:
                first, left = first - 1, left - 1
            while last < len(text) and right < len(form.text) and text[last] == form.text[right]:
                last, right = last + 1, right + 1
            if last - first >= form.least and not (form.alone and _inside_a_word(text, first, last)):
                yield first, last
                behind = max(behind, last)


def _inside_a_word(text: str, first: int, last: int) -> bool:
    return text[max(0, first - 1) : first].isalnum() or text[last : last + 1].isalnum()
