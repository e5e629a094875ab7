"""The process that runs chat templates: nothing that a template does can take more memory or time than it is given.

Run as a program, by :mod:`mmpref.processing.chat.renderer`; it imports nothing of mmpref, and no torch. The steps of
tokenizers are tried here as well (``tokenizer_parts``). A template is a
program from somebody else, and one call of it (``'a' * 10**10``, a list that holds itself twice, forty times over)
can be too much for a process that trains. Here the operating system keeps the limits, whatever the template is.
The only module that imports jinja2.

Requests and replies are a length in 8 bytes and as many bytes. A request is marshalled Python data; a reply is one
letter and text: ``t`` rendered text, ``d`` a description in JSON, ``r`` why the template refuses, ``l`` how long its
text is where that is too long, ``w`` what else is wrong with its text, ``m`` for memory. A list of requests is answered
by ``s`` and the replies, each after its length; every one of them has its own limit of time.
"""

from __future__ import annotations

import json
import marshal
import math
import os
import random
import re
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

# What one template may take for one conversation. Real ones need some milliseconds and a few MiB.
CPU_SECONDS = 5
MEMORY_BYTES = 512 * 2**20
# Texts for the steps of a tokenizer: what prompts are made of, and runs that expressions may have to go back over
_PLAIN = "".join(map(chr, range(32, 127)))
_RUNS = ("a", "1", " ", "a ", "\n", "!")
_TRIED = (_PLAIN, f"{_PLAIN}\n\u00e9\u4e2d\U0001f600\ufdfa\t", *(f"{run * 200}!?" for run in _RUNS))

_ADDRESS = re.compile(r" at (0x[0-9a-fA-F]{6,})\b")
_HALF = re.compile("[\ud800-\udfff]")


class RefusedError(Exception):
    """A conversation that no prompt can be made of; its message is one line."""


def main(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer until the requests end, which they do when the process that asks does."""
    sys.path[:] = marshal.loads(_read(requests))  # the libraries of the process that asks
    _limit_memory()
    while request := _read(requests):
        try:
            asked = marshal.loads(request)
            found = [_reply(one) for one in asked] if isinstance(asked, list) else _reply(asked)
            reply = found if isinstance(found, bytes) else b"s" + b"".join(map(_with_length, found))
        except MemoryError:
            reply = b"m"
        replies.write(_with_length(reply))
        replies.flush()


def _with_length(reply: bytes) -> bytes:
    return len(reply).to_bytes(8, "big") + reply


def _reply(request: tuple[Any, ...]) -> bytes:
    _limit_time()
    try:
        return _answer(*request)
    except MemoryError:
        raise
    except Exception as err:  # a program of the model's author may raise anything
        text = " ".join(str(err).split())[:300]
        kind = type(err).__name__
        text = text if text and kind in ("TemplateError", "RefusedError") else f"{kind}: {text}" if text else kind
        return b"r" + text.encode("utf-8", "backslashreplace")


def _answer(kind: str, source: str, conversation: list[Any], ask: bool, given: dict[str, Any], most: int) -> bytes:
    """The reply to one request."""
    from transformers.utils import chat_template_utils

    if kind == "describe":
        return b"d" + json.dumps(_described(source)).encode()
    if kind == "try":
        return b"d" + json.dumps(_tried(source)).encode()
    random.seed(0)  # some ask for a random word, and prompts must be the same tomorrow
    rendered, _ = chat_template_utils.render_jinja_template(
        [conversation], chat_template=source, add_generation_prompt=ask, **given
    )
    text = str(rendered[0])
    if len(text) > most:
        return f"l{len(text)}".encode()
    if wrong := _wrong_with(text, f"{conversation}{given}", source):
        return b"w" + wrong.encode()
    return b"t" + text.encode()


def _wrong_with(text: str, given: str, source: str) -> str:
    """What no prompt may hold that was not given; empty where it holds nothing of the kind.

    Raises:
        RefusedError: half a character that was given.
    """
    for address in _ADDRESS.finditer(text):
        if address[1] not in given and address[1] not in source:
            return f"writes an object that has no text ({address[1]}): it would be another one each time"
    half = None if text.isascii() else _HALF.search(text)
    if half is None:
        return ""
    code = f"{ord(half[0]):04x}"
    if f"\\u{code}" in given:
        raise RefusedError(f"its text has half a character (U+{code.upper()}), which no tokenizer reads")
    return f"writes half a character (U+{code.upper()}), which no tokenizer reads"


def _described(source: str) -> dict[str, Any]:
    """What a template is made of.

    Returns:
        ``called``: names that it calls as functions.
        ``read``: names that it reads from outside. ``set``: those among them that it only sets for itself somewhere.
        ``names``: every name in it. ``texts``: everything that it can write by itself.
    """
    import jinja2.meta
    from jinja2 import nodes
    from transformers.utils import chat_template_utils

    tree = chat_template_utils._compile_jinja_template(source).environment.parse(source)
    stored = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    asked = {  # what is tested before it is set, or set from itself, comes from outside
        node.node.name
        for node in tree.find_all(nodes.Test)
        if node.name in ("defined", "undefined") and isinstance(node.node, nodes.Name)
    }
    for line in tree.find_all(nodes.Assign):
        if isinstance(line.target, nodes.Name):
            used = {node.name for node in line.node.find_all(nodes.Name)} | {getattr(line.node, "name", "")}
            asked |= {line.target.name} & used
    texts = {node.data for node in tree.find_all(nodes.TemplateData)}
    texts |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    called = {call.node.name for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)}
    return {
        "called": sorted(called),
        "read": sorted(jinja2.meta.find_undeclared_variables(tree)),
        "set": sorted(stored - asked),
        "names": sorted({node.name for node in tree.find_all(nodes.Name)}),
        "texts": sorted(texts),
    }


def _tried(parts: str) -> list[tuple[int, int, int]]:
    """What the steps of a tokenizer make of short texts; each letter is a token, as no vocabulary comes with them.

    Returns:
        (characters, tokens, characters of the tokens decoded) of each text; none where the library reads no such
        steps, which it says better where the whole tokenizer is loaded.
    """
    from tokenizers import Tokenizer

    letters = {chr(code): code for code in (*range(33, 0x180), 0x2581)}
    model = {"type": "BPE", "vocab": letters, "merges": [], "unk_token": "?"}
    whole = {"version": "1.0", "added_tokens": [], **json.loads(parts), "model": model}
    found: list[tuple[int, int, int]] = []
    try:
        tokenizer = _made(Tokenizer, whole)
        for text in _TRIED if tokenizer is not None else ():
            ids = tokenizer.encode(text).ids
            found.append((len(text), len(ids), len(tokenizer.decode(ids, skip_special_tokens=False))))
    except BaseException as err:
        if type(err).__name__ != "PanicException":  # of a library in Rust: no Exception, as Python has it
            raise
        raise ValueError(str(err)) from err
    return found


def _made(kind: Any, content: dict[str, Any]) -> Any:
    """None where the library refuses the content: loading the folder meets the same and says which file it is."""
    try:
        return kind.from_str(json.dumps(content))
    except Exception:
        return None


def _read(stream: BinaryIO) -> bytes:
    """One request; empty at their end."""
    size = stream.read(8)
    return stream.read(int.from_bytes(size, "big")) if len(size) == 8 else b""


def _limit_memory() -> None:
    """Allow so much above what the libraries took, once they are loaded."""
    from transformers.utils import chat_template_utils

    chat_template_utils._compile_jinja_template("").render()
    _limit(resource.RLIMIT_CORE, 0)
    try:
        with Path("/proc/self/statm").open(encoding="ascii") as stream:
            now = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: the limit is then one of data alone, where there is such a thing
        _limit(resource.RLIMIT_DATA, MEMORY_BYTES)
        return
    _limit(resource.RLIMIT_AS, now + MEMORY_BYTES)


def _limit_time() -> None:
    """The system ends this process with SIGXCPU when the request takes longer; no call into C can delay that."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)


def _limit(kind: int, most: int) -> None:
    """Set a limit below the one that the machine's owner may have set, which cannot be raised."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    main(sys.stdin.buffer, sys.stdout.buffer)
