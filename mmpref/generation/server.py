"""Answers from a server with an OpenAI-compatible chat API: vLLM, SGLang, ``transformers serve``, or a hosted one."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.generation.api_server import Server
from mmpref.generation.chat_api import ChatClient
from mmpref.generation.chat_reply import Completion
from mmpref.generation.concurrency import ItemFailed, in_parallel
from mmpref.generation.contract import same_questions
from mmpref.records import Answer, EvalSample, ImageRef

Encode = Callable[[ImageRef], tuple[str, bytes]]


class ServerAnswerer:
    """Asks several questions at once and gives the answers as they come; temperature 0.

    Images travel as data URLs: the file as it is when every reader understands it alike, else an RGB PNG of what
    mmpref itself sees (see ``ImageLoader.encoded``). Questions that are the same are asked once. Beam search is no part
    of this API: ``num_beams`` is not asked for, and ``facts`` says so. All answers are of one model: a reply that names
    another than those before it ends the work.

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
        from mmpref.data.images.loader import ImageLoader

        self._server = server
        self._max_new_tokens = max_new_tokens
        self._encode: Encode = ImageLoader(images_root).encoded
        self._lock = threading.Lock()
        self.named: str | None = None
        """The model's name in the replies; set it to that of answers which are there already."""
        self.failures: dict[str, str] = {}
        self.facts: dict[str, Any] = {"server": server.url, "served_as": []}
        if num_beams > 1:
            self.facts["decoding"] = f"greedy, because the chat API has no beam search ({num_beams} beams were wanted)"
        server.key()  # a missing key is an error before anything is asked

    @property
    def model(self) -> str:
        """The model's name at the server."""
        return self._server.model

    def served(self) -> dict[str, Any] | None:
        """What the server says of the model beside its answers; None where it cannot be reached."""
        client = ChatClient(self._server)
        try:
            return client.served()
        finally:
            client.close()

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """Answers as the replies come; why others have none is in ``failures``.

        Raises:
            ConfigError: the server refuses every request.
            EvalIncompleteError: many requests in a row failed, or another model answers.
        """
        client = ChatClient(self._server)

        def ask(alike: list[EvalSample]) -> Completion:
            reply = client.complete(
                chat_messages(alike[0], self._encode), max_tokens=self._max_new_tokens, temperature=0.0
            )
            self._refuse_another(reply.model)
            return reply

        questions = same_questions(samples)
        for alike, reply in in_parallel(questions, ask, workers=self._server.concurrency, stop=client.close):
            if isinstance(reply, ItemFailed):
                self.failures |= {sample.id: str(reply) for sample in alike}
                continue
            self.facts["served_as"] = [self.named]
            for sample in alike:
                yield Answer(
                    id=sample.id,
                    text=reply.text.strip(),
                    cut=reply.cut,
                    served_as=reply.model,
                    server_state=reply.fingerprint or "",
                )

    def _refuse_another(self, named: str) -> None:
        with self._lock:
            self.named = self.named or named
            if named != self.named:
                raise EvalIncompleteError(
                    f"the server {self._server.url} answers as '{named}' now and as '{self.named}' before, and the "
                    "answers of two models make no number; those of the first are kept: ask for it by its full name, "
                    "or choose another folder"
                )


def chat_messages(sample: EvalSample, encode: Encode) -> list[dict[str, Any]]:
    """The prompt as the chat API takes it, image places filled in order; a turn without images is plain text.

    Raises:
        DataError: the question is about a video.
    """
    if any(message.num_videos for message in sample.prompt):
        raise DataError(f"question '{sample.id}' asks about a video, and servers are sent images and text only")
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
            parts.append(image_part(*encode(next(images))))
        out.append({"role": message.role, "content": parts})
    return out


def image_part(kind: str, content: bytes) -> dict[str, Any]:
    """An image as a part of a message: its file, of the media type ``kind``, as a data URL."""
    url = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}
