"""A real HTTP server with a chat API, for tests: it answers as a function says, and misbehaves on demand."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Request = dict[str, Any]
Fault = str  # "429", "500", ..., "hang", "garbage", "half", "drop", "trickle"


class ChatServer:
    """``answer`` gets the request's JSON and gives the text, a whole reply as a dict, or a status and a body.

    ``faults`` maps the number of a request (from 1) to what goes wrong with it; 0 stands for all others.
    """

    def __init__(self, answer: Callable[[Request], Any], faults: dict[int, Fault] | None = None) -> None:
        self.answer = answer
        self.faults = faults or {}
        self.requests: list[Request] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self.error_body: Any = {"error": {"message": "slow down"}}
        self.error_headers: dict[str, str] = {}
        self.models: list[dict[str, Any]] | None = None  # what /v1/models lists; None: there is no such page
        self._at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            _is_counted = False

            def do_GET(self) -> None:
                if self.path == "/v1/models" and chat.models is not None:
                    self._send(200, json.dumps({"object": "list", "data": chat.models}).encode(), {})
                else:
                    self._send(404, b"{}", {})

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the client was killed while it wrote
                    self.close_connection = True
                    return
                with chat._lock:
                    chat.requests.append(json.loads(body))
                    chat.headers.append(dict(self.headers))
                    chat.paths.append(self.path)
                    number = len(chat.requests)
                    chat._at_once += 1
                    chat.most_at_once = max(chat.most_at_once, chat._at_once)
                    self._is_counted = True
                try:
                    self._reply(json.loads(body), chat.faults.get(number, chat.faults.get(0, "")))
                finally:
                    self._no_longer_at_once()

            def _no_longer_at_once(self) -> None:
                """Before the reply is sent: who has it may ask again before this thread has gone on."""
                with chat._lock:
                    if self._is_counted:
                        chat._at_once -= 1
                    self._is_counted = False

            def _reply(self, request: Request, fault: Fault) -> None:
                if fault.isdigit():
                    self._send(int(fault), json.dumps(chat.error_body).encode(), chat.error_headers)
                    return
                if fault == "hang":
                    chat._closing.wait(30)
                    self.close_connection = True
                    return
                if fault == "drop":
                    self.close_connection = True
                    return
                found = chat.answer(request)
                if isinstance(found, tuple):
                    self._send(found[0], json.dumps(found[1]).encode(), {})
                    return
                reply = found if isinstance(found, dict) else whole_reply(found, request["model"])
                content = json.dumps(reply).encode()
                if fault == "garbage":
                    content = b"<html>\xff upstream error</html>"
                if fault == "half":
                    content = content[: len(content) // 2]
                if fault == "trickle":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    for byte in content:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        if chat._closing.wait(0.1):
                            return
                    return
                self._send(200, content, {})

            def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self._no_longer_at_once()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError, TimeoutError):  # the client left, as a killed one does
                    super().handle()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator[Self]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._closing.set()
            self._http.shutdown()
            self._http.server_close()


def whole_reply(text: str, model: str) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "model": f"{model}-2026-01-01",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
    }


def text_of(request: Request) -> str:
    """All text of a request's last message."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
