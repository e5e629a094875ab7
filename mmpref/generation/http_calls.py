"""HTTP requests with one time limit that holds whatever the other side does. The only module that imports httpx2.

The limits of an HTTP client are between two reads, so that a server which sends a byte now and then is never late. Here
a request runs as one task of an event loop, from the name server to the last byte, and the loop ends it when its time
is over. The loop has a daemon thread of its own, and so has every question to the name server, which nothing can end: a
program that is interrupted waits for none of them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

_CONNECT_SECONDS = 15.0
_GRACE = 1.0  # for the loop itself to come round
_REQUEST = "mmpref request"
_MADE: contextvars.ContextVar[list[asyncio.WriteTransport]] = contextvars.ContextVar("connections of a request")
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class CallFailed(Exception):  # noqa: N818  # what it means is for the caller to say
    """No whole reply came; the text says why. ``sent`` says whether the server may have had the request."""

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent


class OutOfTime(CallFailed):
    """The time limit was reached. ``begun`` says whether a status line and headers had come."""

    def __init__(self, reason: str, *, begun: bool) -> None:
        super().__init__(reason)
        self.begun = begun


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """A whole reply; the content is decompressed."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class HttpCalls:
    """Requests to one server, from several threads at once.

    Args:
        connections: kept open at most.
        trust_env: use the proxy that the environment names.
    """

    def __init__(self, *, connections: int, trust_env: bool) -> None:
        self._connections, self._trust_env = connections, trust_env
        self._loop = _Loop()
        self._client: httpx2.AsyncClient | None = None
        self._lock = threading.Lock()  # a request is with the loop before its end is, or never
        self._closed = False
        self._waited_for: set[concurrent.futures.Future[HttpReply]] = set()
        _no_headers_in_logs()
        threading.Thread(target=self._loop.run, name="http", daemon=True).start()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        seconds: float,
        most_bytes: int,
    ) -> HttpReply:
        """One request and its whole reply. Redirects are not followed.

        Raises:
            OutOfTime: not within ``seconds``.
            CallFailed: no connection, a broken one, a reply of more than ``most_bytes``, or :meth:`close` was called.
        """
        begun = threading.Event()
        with self._lock:
            if self._closed:
                raise CallFailed("stopped", sent=False)
            self._client = self._client or self._new_client(url)
            work = self._whole(method, url, dict(headers), content, seconds, most_bytes, begun)
            try:
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
            except RuntimeError:  # the loop ended with the interpreter
                work.close()
                raise CallFailed("stopped", sent=False) from None
            self._waited_for.add(future)
        try:
            return future.result(seconds + _GRACE)
        except TimeoutError:
            future.cancel()
            raise OutOfTime(f"within {seconds:g} s", begun=begun.is_set()) from None
        except concurrent.futures.CancelledError:
            raise CallFailed("stopped", sent=False) from None
        finally:
            with self._lock:
                self._waited_for.discard(future)

    def close(self) -> None:
        """Abandon what is under way; whoever waits for it gets a ``CallFailed``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(RuntimeError):  # the loop ended with the interpreter
                asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            for future in self._waited_for:  # here: the loop does not wait for long for what it ends
                future.cancel()

    async def _whole(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: bytes,
        seconds: float,
        most_bytes: int,
        begun: threading.Event,
    ) -> HttpReply:
        if (task := asyncio.current_task()) is not None:
            task.set_name(_REQUEST)
        if self._closed:  # between the asking and now
            raise CallFailed("stopped", sent=False)
        import httpx2

        async with _aborting_connections(), asyncio.timeout(seconds):
            try:
                assert self._client is not None
                async with self._client.stream(method, url, content=content, headers=headers) as response:
                    begun.set()
                    read = await _read(response, most_bytes)
                    return HttpReply(status=response.status_code, headers=dict(response.headers), content=read)
            except httpx2.ConnectTimeout:
                raise CallFailed(f"not within {_CONNECT_SECONDS:g} s", sent=False) from None
            except (httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as err:
                raise CallFailed(str(err) or type(err).__name__, sent=False) from None
            except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError) as err:
                raise CallFailed(str(err) or type(err).__name__) from None

    def _new_client(self, url: str) -> httpx2.AsyncClient:
        """Made before the time of the first request begins: that the library and its certificates load slowly is no
        fault of the server."""
        import httpx2

        is_plain = url.startswith("http://") and not self._trust_env  # neither the server nor a proxy speaks TLS
        try:
            return httpx2.AsyncClient(
                verify=not is_plain,  # else certificates are loaded for nothing, which takes longer than a request
                timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=self._connections),
                follow_redirects=False,
                trust_env=self._trust_env,
            )
        except (httpx2.InvalidURL, OSError, ValueError) as err:  # a proxy of the environment, or certificates
            raise CallFailed(str(err) or type(err).__name__, sent=False) from None

    async def _end(self) -> None:
        # those of ours only: they end the ones that their connections have made
        if under_way := [task for task in asyncio.all_tasks() if task.get_name() == _REQUEST]:
            for task in under_way:
                task.cancel()
            await asyncio.wait(under_way, timeout=_GRACE)
        if self._client is not None:
            with contextlib.suppress(Exception):  # a connection that ends badly has ended
                async with asyncio.timeout(_GRACE):
                    await self._client.aclose()
        self._loop.stop()


@contextlib.asynccontextmanager
async def _aborting_connections() -> AsyncIterator[None]:
    """Abort what a request has connected where it fails: the client forgets a greeting in TLS that is cut short."""
    made: list[asyncio.WriteTransport] = []
    _MADE.set(made)
    try:
        yield
    except BaseException:
        for connection in made:
            connection.abort()
        raise


async def _read(response: httpx2.Response, most_bytes: int) -> bytes:
    """The body, decompressed a piece at a time, so that a small one that unpacks without end is left early."""
    named = response.headers.get("content-encoding", "identity").strip().lower()
    if named not in ("", "identity", *_WINDOWS):
        raise CallFailed(f"the reply is compressed as {named[:40]}, which was not asked for")
    unpack = zlib.decompressobj(_WINDOWS[named]) if named in _WINDOWS else None
    out = bytearray()
    async for piece in response.aiter_raw():
        try:
            out += piece if unpack is None else unpack.decompress(piece, most_bytes + 1)
        except zlib.error as err:
            raise CallFailed(f"the reply says it is {named} and is not: {err}") from None
        if len(out) > most_bytes:
            raise CallFailed(f"the reply is larger than {most_bytes} bytes")
    if unpack is not None and out and not unpack.eof:
        raise CallFailed(f"the {named} reply ends too early")
    return bytes(out)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that asks the name server in a daemon thread: Python waits for those of its own pool at its end."""

    def run(self) -> None:
        """Until it is stopped; its descriptors are given back then."""
        try:
            self.run_forever()
        finally:
            self.close()

    async def create_connection(self, *given: Any, **more: Any) -> Any:
        made = await super().create_connection(*given, **more)
        if (of_request := _MADE.get(None)) is not None:
            of_request.append(made[0])
        return made

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:
        waiting = self.create_future()

        def give(put: Callable[[Any], None], value: Any) -> None:
            if not waiting.done():
                put(value)

        def ask() -> None:
            put: Callable[[Any], None]
            try:
                found: Any = socket.getaddrinfo(host, port, **more)
                put = waiting.set_result
            except Exception as err:  # handed to whoever asked
                found, put = err, waiting.set_exception
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
                self.call_soon_threadsafe(give, put, found)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        return await waiting


def _no_headers_in_logs() -> None:
    """The client's own log lines hold whole headers, in which a server may repeat the API key."""
    for name in ("httpx2", "httpcore2"):
        log = logging.getLogger(name)
        if log.level == logging.NOTSET:
            log.setLevel(logging.WARNING)
