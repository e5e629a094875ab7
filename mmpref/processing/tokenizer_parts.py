"""What a tokenizer.json may make of a text, found before that tokenizer is given any.

Its steps come from somebody else, and some of them write more than they read: forty that each turn ``a`` into ``aa``
take all memory, inside a library in Rust that ends the process when there is none. So their growth is bounded from what
they say, and then they are run once in the process with limits (``render_process``), without the vocabulary.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmpref.processing.chat import renderer
from mmpref.processing.chat.renderer import LimitError, TemplateError

MOST_TIMES = 64
"""Times the characters that a text may grow to; byte-level tokenizers need 4, and a few stock steps double that."""
_MOST_STEPS = 64
_MOST_ADDED = 64
"""Tokens put around a text; stock tokenizers have one or two."""
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")
_BYTES_OF_A_LETTER = 4
_OF_UNICODE = 8  # what a table of Unicode counts for: single letters become 18, and nearly all become one


class GrowthError(Exception):
    """Why a tokenizer is not to be used; its message is one line without a subject: ``writes ...``."""


def refuse_steps(content: Mapping[str, Any]) -> None:
    """Refuse a tokenizer whose steps could write far more than they read, or whose ids would differ from time to time.

    Args:
        content: of a tokenizer.json.

    Raises:
        GrowthError: with the step, or with a merge that the library would fail on.
    """
    model = content.get("model")
    if isinstance(model, Mapping) and model.get("dropout"):
        raise GrowthError(
            f"says dropout: {str(model['dropout'])[:20]} in its model: a text would have other tokens each time; write "
            "null there"
        )
    if isinstance(model, Mapping) and (prefix := model.get("continuing_subword_prefix")):
        _refuse_short_merges(str(prefix), _list(model.get("merges")))
    steps = {part: list(_steps(content.get(part))) for part in _PARTS}
    for part, found in steps.items():
        if len(found) > _MOST_STEPS:
            raise GrowthError(f"has more than {_MOST_STEPS} steps in its {part}")
    _refuse_times("normalizer and pre_tokenizer", [*steps["normalizer"], *steps["pre_tokenizer"]])
    _refuse_times("decoder", steps["decoder"])
    added = 0
    for step in steps["post_processor"]:
        pieces = [piece for piece in _list(step.get("single")) if isinstance(piece, Mapping)]
        if sum("Sequence" in piece for piece in pieces) > 1:
            raise GrowthError("writes a text more than once (single in its post_processor)")
        known = step.get("special_tokens")
        for piece in [piece["SpecialToken"] for piece in pieces if "SpecialToken" in piece]:
            name = piece.get("id") if isinstance(piece, Mapping) else None
            token = known.get(name) if isinstance(known, Mapping) and isinstance(name, str) else None
            added += len(_list(token.get("ids"))) if isinstance(token, Mapping) else 1
    if added > _MOST_ADDED:
        raise GrowthError(f"puts {added:,} tokens around every text (post_processor), and {_MOST_ADDED} are the most")
    _try(content)


def _refuse_short_merges(prefix: str, merges: list[Any]) -> None:
    """Refuse what the library cuts the prefix from although it is shorter: it fails with many lines on the terminal."""
    for merge in merges:
        right = merge[-1] if isinstance(merge, list) and merge else str(merge).rpartition(" ")[2]
        if len(str(right).encode("utf-8", "replace")) < len(prefix.encode("utf-8", "replace")):
            raise GrowthError(
                f"merges tokens with {str(right)[:40]!a}, which has no continuing_subword_prefix {prefix[:40]!a}"
            )


def _refuse_times(part: str, steps: list[Mapping[str, Any]]) -> None:
    times = 1.0
    for step in steps:
        times *= _times(step)
        if times > MOST_TIMES:
            name = str(step.get("type", "a step"))[:40]
            raise GrowthError(
                f"can make more than {MOST_TIMES} characters of one (its {part}, up to {name}), which would take all "
                "time and memory"
            )


def _times(step: Mapping[str, Any]) -> float:
    """How many times longer one step may make a text. Steps are known by their keys: old files name no types."""
    kind = step.get("type")
    if "content" in step and "pattern" in step:
        pattern, content = step["pattern"], step["content"]
        read = pattern.get("String") if isinstance(pattern, Mapping) else pattern
        written = len(content) if isinstance(content, str) else 0
        if isinstance(read, str) and read:
            return max(1.0, written / len(read))
        return 1.0 + written  # an expression may find a place between any two letters
    if "prepend" in step:
        return 1.0 + len(str(step["prepend"]))
    if "precompiled_charsmap" in step:
        longest = _longest_entry(step["precompiled_charsmap"])
        return float(longest) if longest > MOST_TIMES else float(_OF_UNICODE)
    return float(_BYTES_OF_A_LETTER) if kind == "ByteLevel" or (kind is None and "trim_offsets" in step) else 1.0


def _longest_entry(charsmap: Any) -> int:
    """Bytes of the longest text in SentencePiece's table: the size of a trie, the trie, and texts that end with 0."""
    try:
        table = base64.b64decode(str(charsmap))
    except ValueError:
        return 0  # the library refuses it
    size = int.from_bytes(table[:4], "little")
    return max(map(len, table[4 + size :].split(b"\0")))


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """The single steps of a part, in order, out of sequences in sequences."""
    left = [part]
    while left:
        step = left.pop()
        if not isinstance(step, Mapping):
            continue
        inner = [entry for key in _LISTS for entry in _list(step.get(key))]
        left += inner[::-1]
        if not inner:
            yield step


def _try(content: Mapping[str, Any]) -> None:
    """Run the steps on short texts in the process that has limits.

    Raises:
        GrowthError: it fails there, takes too much, or writes too much.
    """
    try:
        counts = renderer.try_steps(json.dumps({part: content.get(part) for part in _PARTS}))
    except TemplateError as err:
        raise GrowthError(f"cannot tokenise plain text: {err}") from err
    except LimitError as err:
        raise GrowthError(f"cannot tokenise plain text: it {err}") from err
    for read, tokens, written in counts:
        if tokens > MOST_TIMES * (read + 1) or written > MOST_TIMES * (tokens + 1):
            raise GrowthError(f"makes {tokens:,} tokens of {read:,} characters, and {written:,} characters of those")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
