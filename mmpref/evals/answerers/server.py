"""Answers from a server with an OpenAI-compatible chat API: vLLM, SGLang, ``transformers serve``, or a hosted one."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmpref.evals.answerers.contract import same_questions
from mmpref.evals.chat_api import ChatClient, ItemFailed, Server, in_parallel
from mmpref.records import Answer, EvalSample, ImageRef

Encode = Callable[[ImageRef], tuple[str, bytes]]


class ServerAnswerer:
    """Asks several questions at once and gives the answers as they come; temperature 0.

    Pictures travel as data URLs: the file as it is when every reader understands it alike, else an RGB PNG of what
    mmpref itself sees (see ``ImageLoader.encoded``). Questions that are the same are asked once. Beam search is no part
    of this API: ``num_beams`` is not asked for, and ``facts`` says so.

    Args:
        server: where it is and how it is asked.
        images_root: relative image paths start here.
        max_new_tokens: an answer stops here if it did not end before.
        num_beams: what the benchmark would have.
    """

    def __init__(
        self,
        server: Server,
        *,
        images_root: str | Path | None = None,
        max_new_tokens: int = 64,
        num_beams: int = 1,
    ) -> None:
        from mmpref.data.images import ImageLoader

        self._server = server
        self._max_new_tokens = max_new_tokens
        self._encode: Encode = ImageLoader(images_root).encoded
        self.failures: dict[str, str] = {}
        self.facts: dict[str, Any] = {"server": server.url, "served_as": []}
        if num_beams > 1:
            self.facts["decoding"] = f"greedy, because the chat API has no beam search ({num_beams} beams were wanted)"
        server.key()  # a missing key is told before anything is asked

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        client = ChatClient(self._server)
        named: set[str] = set()

        def ask(alike: list[EvalSample]) -> str:
            reply = client.complete(
                chat_messages(alike[0], self._encode), max_tokens=self._max_new_tokens, temperature=0.0
            )
            named.add(reply.model)
            return reply.text.strip()

        questions = same_questions(samples)
        for alike, text in in_parallel(questions, ask, workers=self._server.concurrency, stop=client.close):
            if isinstance(text, ItemFailed):
                self.failures |= {sample.id: str(text) for sample in alike}
                continue
            self.facts["served_as"] = sorted(named)
            for sample in alike:
                yield Answer(id=sample.id, text=text)


def chat_messages(sample: EvalSample, encode: Encode) -> list[dict[str, Any]]:
    """The prompt as the chat API takes it, image places filled in order; a turn without images is plain text."""
    images = iter(sample.images)
    out: list[dict[str, Any]] = []
    for message in sample.prompt:
        if not message.num_images:
            out.append({"role": message.role, "content": message.text})
            continue
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if part.kind == "text":
                parts.append({"type": "text", "text": part.text})
                continue
            kind, content = encode(next(images))
            url = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        out.append({"role": message.role, "content": parts})
    return out
