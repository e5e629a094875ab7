"""The folder of fetched images: downloads into it, with caps, time limits and further tries."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from mmpref.data.fetching.deadline import Deadline
from mmpref.data.fetching.policy import FetchPolicy, Target, checked_address, parse_url, redirected
from mmpref.data.images.loader import ImageLoader
from mmpref.data.quarantine import RowError
from mmpref.errors import CheckpointError
from mmpref.process.threads import within
from mmpref.records import ImageRef
from mmpref.version import __version__

FOLDER = "fetched"
"""Below the image root: where fetched images are kept, by the hash of their URL."""


_RETRIED = frozenset({429, 500, 502, 503, 504})


_CHUNK = 2**16


_GRACE = 1.0  # seconds in which threads that were stopped clean up


@dataclass
class ImageStore:
    """The folder of fetched images, and what was downloaded into it."""

    root: Path
    images: ImageLoader
    policy: FetchPolicy
    num_bytes: int = 0
    downloaded: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _under_way: int = 0

    def stop(self) -> None:
        """End what is under way, as fast as its threads notice."""
        self.stopped.set()
        until = time.monotonic() + _GRACE
        while self._under_way and time.monotonic() < until:
            time.sleep(0.01)

    def remove_parts(self) -> None:
        """What a stopped or killed call left half."""
        for part in (self.root / FOLDER).glob("*/.*.part"):
            part.unlink(missing_ok=True)

    def fetch(self, url: str) -> str | RowError:
        """The path of a URL's file below the root, downloaded if it is not there; or why it cannot be had."""
        digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        name = f"{FOLDER}/{digest[:2]}/{digest}"
        path = self.root / name
        with self._lock:
            self._under_way += 1
        try:
            target = parse_url(url, self.policy)
            if not (path.is_file() and self._is_whole(name)):
                self._download(url, target, path)
        except RowError as fault:
            return RowError(f"{url[:300]}: {fault.detail}", reason=fault.reason)
        finally:
            with self._lock:
                self._under_way -= 1
        return name

    def _is_whole(self, name: str) -> bool:
        """Whether a file that was there already is an image to its end; it may be from an older version."""
        try:
            self.images.open(ImageRef(path=name))
        except RowError:
            return False
        return True

    def _download(self, url: str, target: Target, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Deadline(self.policy.deadline, self.stopped) as deadline:
            for attempt in range(1, self.policy.attempts + 1):
                with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
                    temporary = Path(file.name)
                    try:
                        self._follow(url, target, file, deadline)
                        file.flush()
                        self._refuse_other_than_an_image(temporary)
                        temporary.chmod(0o644)
                        temporary.replace(path)
                        with self._lock:
                            self.downloaded += 1
                        return
                    except TryAgainError as error:
                        pause = self.policy.backoff * 2 ** (attempt - 1)
                        if attempt == self.policy.attempts or self.stopped.is_set():
                            raise RowError(str(error), reason="fetch_failed") from error
                        if pause >= deadline.left:
                            raise self._too_late(f"; {error}") from error
                        self.stopped.wait(pause)
                    finally:
                        temporary.unlink(missing_ok=True)

    def _refuse_other_than_an_image(self, file: Path) -> None:
        """Whole to the last pixel, whatever the server called it: an error page is none, nor is half of one.

        Raises:
            RowError: with the reason of ``ImageLoader``.
        """
        try:
            self.images.open(ImageRef(path=file.relative_to(self.root).as_posix()))
        except RowError as fault:
            size = file.stat().st_size
            detail = fault.detail.partition(file.name)[2].lstrip("' ")
            raise RowError(f"what came ({size} bytes) {detail}", reason=fault.reason) from fault

    def _too_late(self, why: str = "") -> RowError:
        if self.stopped.is_set():
            return RowError("stopped", reason="fetch_failed")
        return RowError(f"took longer than {self.policy.deadline:g} seconds{why}", reason="fetch_timeout")

    def _follow(self, url: str, target: Target, file: IO[bytes], deadline: Deadline) -> None:
        for _ in range(self.policy.max_redirects + 1):
            if deadline.is_over:
                raise self._too_late()
            try:
                address = within(deadline.left, partial(checked_address, target, self.policy))
            except TimeoutError as error:
                raise self._too_late(f"; the name server did not answer about {target.host}") from error
            timeout = min(self.policy.timeout, max(deadline.left, 0.01))
            connection = self.policy.connect(target.host, address, target.port, timeout)
            try:
                deadline.connect(connection)
                headers = {"User-Agent": f"mmpref/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
                connection.request("GET", target.path, headers=headers)
                answer = connection.getresponse()
                place = answer.getheader("Location")
                if answer.status in (301, 302, 303, 307, 308) and place:
                    url = redirected(url, place)
                    target = parse_url(url, self.policy)
                    continue
                self._save(answer, file)
                if deadline.is_over:  # the end of the file is the end of the connection, which was ours
                    raise self._too_late()
                return
            except (OSError, http.client.HTTPException) as error:
                if deadline.is_over:
                    raise self._too_late() from error
                raise TryAgainError(f"the connection failed: {type(error).__name__}: {error}") from error
            except TryAgainError as error:
                if deadline.is_over:
                    raise self._too_late() from error
                raise
            finally:
                connection.close()
        raise RowError(f"more than {self.policy.max_redirects} redirects", reason="fetch_failed")

    def _save(self, answer: http.client.HTTPResponse, file: IO[bytes]) -> None:
        if answer.status in _RETRIED:
            raise TryAgainError(f"the server answered {answer.status}")
        if answer.status != 200:
            raise RowError(f"the server answered {answer.status}", reason="fetch_failed")
        if answer.getheader("Content-Encoding", "").strip().lower() not in ("", "identity"):
            raise RowError("the server compressed the image, which was not asked for", reason="fetch_failed")
        limit = self.policy.max_bytes
        if (answer.length or 0) > limit:
            raise RowError(f"has {answer.length} bytes, the limit is {limit}", reason="fetch_too_large")
        expected, size = answer.length, 0
        while piece := answer.read1(_CHUNK):
            size += len(piece)
            with self._lock:
                self.num_bytes += len(piece)
                too_much = self.num_bytes > self.policy.max_total_bytes
            if size > limit:
                raise RowError(f"has more than the limit of {limit} bytes", reason="fetch_too_large")
            if too_much:
                raise RowError(
                    f"the limit of {self.policy.max_total_bytes} bytes in all is reached", reason="fetch_total"
                )
            try:
                file.write(piece)
            except OSError as error:
                raise CheckpointError(f"cannot write below {self.root}: {error.strerror or error}") from error
        if expected is not None and size != expected:
            raise TryAgainError(f"the connection ended after {size} of {expected} bytes")


class TryAgainError(Exception):
    """Something that may pass: a busy server, a broken connection."""
