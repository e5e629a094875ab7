"""The one step that downloads images: named hosts only, https only, public addresses only, with caps, and resumable.

Nothing else in mmpref opens a URL. A host is resolved once, every address it has must be public, and the connection
goes to the address that was checked, so that a second answer of the name server changes nothing. Redirects are followed
only to places that pass the same checks. Proxy settings are not read. The time limit of an image holds whatever the
server does, and a file counts as fetched when it is a whole image.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from mmpref.data.fetching.deadline import Deadline
from mmpref.data.fetching.public_hosts import HOST, is_public, normal_host
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import PairSource, all_images
from mmpref.data.pairs import write_pairs
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.errors import CheckpointError, ConfigError
from mmpref.files.locking import only_writer
from mmpref.files.reading import without_links
from mmpref.process.threads import each, within
from mmpref.records import ImageRef, PreferencePair
from mmpref.version import __version__

FOLDER = "fetched"
"""Below the image root: where fetched images are kept, by the hash of their URL."""

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://")
_RETRIED = frozenset({429, 500, 502, 503, 504})
_CHUNK = 2**16
_GRACE = 1.0  # seconds in which threads that were stopped clean up

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[str, str, int, float], http.client.HTTPConnection]
Progress = Callable[[int, int | None], None]


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Pinned(http.client.HTTPSConnection):
    """TLS to a host by its name, over a connection to the one address that was checked."""

    def __init__(self, host: str, address: str, port: int, timeout: float) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(host, port, timeout=timeout, context=self._tls)
        self._address = address

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        # known before the greeting, so that a slow one can be ended
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock.do_handshake()


@dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """What may be fetched, and how much of it."""

    hosts: frozenset[str] = frozenset()
    """Names that may be asked: ``images.example.org``, or ``*.example.org`` for all below one. None by default."""
    allowed_addresses: frozenset[str] = frozenset()
    """Addresses that are not public and may be reached all the same; for a server of your own."""
    max_bytes: int = 64 * 2**20
    """Of one image."""
    max_total_bytes: int = 200 * 2**30
    """Of one call."""
    timeout: float = 20.0
    """Seconds without an answer."""
    deadline: float = 120.0
    """Seconds for one image, whole: name server, redirects and further tries included."""
    attempts: int = 3
    """Tries, when the server is busy or the connection breaks."""
    backoff: float = 1.0
    """Seconds before the second try; twice as long before each further one."""
    max_redirects: int = 3
    resolve: Resolve = _resolve
    connect: Connect = _Pinned

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", frozenset(map(normal_host, self.hosts)))

    def allows_host(self, host: str) -> bool:
        """Whether a name is on the list, itself or below a ``*.`` entry."""
        return any(host.endswith(entry[1:]) if entry.startswith("*.") else host == entry for entry in self.hosts)


@dataclass(frozen=True, slots=True)
class Target:
    """One URL, taken apart once: what is checked is what is asked for."""

    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """What came of one call. ``used + quarantined == read``; they count pairs."""

    read: int
    used: int
    quarantined: int
    reasons: dict[str, int]
    images: int
    """Different URLs that are now files."""
    downloaded: int
    """Of these, the ones that were downloaded by this call; the others were there already."""
    num_bytes: int
    out: Path


def parse_url(url: str, policy: FetchPolicy) -> Target:
    """Take a URL apart and refuse what may not be asked.

    Raises:
        RowError: ``fetch_url`` (not a plain https URL) or ``fetch_host`` (a host that is not on the list).
    """
    if not url.isascii() or any(character <= " " or character in '\\"<>^`{|}' for character in url):
        raise _fault("fetch_url", url, "has characters that a URL must write as %XX")
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise _fault("fetch_url", url, f"is not a URL: {error}") from error
    if parts.scheme != "https":
        raise _fault("fetch_url", url, "is not https")
    if "@" in parts.netloc:
        raise _fault("fetch_url", url, "carries a user name")
    host = (parts.hostname or "").lower().removesuffix(".")
    if not HOST.match(host):
        raise _fault("fetch_url", url, "has no plain host name")
    if port != 443:
        raise _fault("fetch_url", url, "asks for another port than 443")
    if not policy.allows_host(host):
        raise _fault("fetch_host", url, f"is on {host}, which is not an allowed host")
    return Target(host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def _redirected(url: str, place: str) -> str:
    try:
        return urljoin(url, place)
    except ValueError as error:
        raise _fault("fetch_url", url, f"leads to {place[:200]!r}, which is not a URL: {error}") from error


def checked_address(target: Target, policy: FetchPolicy) -> str:
    """The address to connect to. Every address that the name has must be public.

    Raises:
        RowError: ``fetch_address`` (a private, loopback or link-local one) or ``fetch_failed`` (no such name).
    """
    try:
        addresses = policy.resolve(target.host, target.port)
    except OSError as error:
        raise RowError(f"{target.host} has no address: {error.strerror or error}", reason="fetch_failed") from error
    for address in addresses:
        if address not in policy.allowed_addresses and not is_public(address):
            raise RowError(f"{target.host} leads to {address}, which is not a public address", reason="fetch_address")
    if not addresses:
        raise RowError(f"{target.host} has no address", reason="fetch_failed")
    return addresses[0]


def fetch_pairs(
    source: PairSource,
    *,
    out: Path,
    root: Path,
    policy: FetchPolicy,
    quarantine: Quarantine,
    workers: int = 4,
    progress: Progress | None = None,
) -> FetchReport:
    """Download the images that pairs name by URL, and write the pairs with the paths of the files.

    Pairs whose image cannot be had are put aside. What is there already is not asked for again, so a call that was
    stopped goes on where it was.

    Args:
        source: pairs in any format; their images are not looked at before.
        out: canonical JSONL, written whole at the end.
        root: the image root of the written file: images go to its folder ``fetched``; paths stay relative to it.
        policy: the hosts to ask, and the caps.
        quarantine: gets the pairs that are not written, and the counts.
        workers: images on their way at a time.
        progress: called with (images done, images in all).

    Raises:
        ConfigError: no host was allowed.
    """
    if not policy.hosts:
        raise ConfigError("no host is allowed; name the hosts that images may come from (--host images.example.org)")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"images cannot be kept in {root}: {error.strerror or error}") from error
    store = _Store(without_links(root), ImageLoader(root), policy)
    urls: dict[str, None] = {}
    for _, _, pair in replace(source, images=None).candidates(Quarantine(), demonstrations=True):
        urls.update(dict.fromkeys(_urls(pair)))
    with only_writer(out, "choose another --out"), only_writer(root / FOLDER, "choose another --root"):
        store.remove_parts()
        outcomes = _fetch_all(store, urls, workers, progress)
        write_pairs(out, _rewritten(source, outcomes, quarantine, store.root))
        quarantine.write()
    return FetchReport(
        read=quarantine.num_read,
        used=quarantine.num_used,
        quarantined=len(quarantine),
        reasons=dict(quarantine.counts.most_common()),
        images=sum(isinstance(outcome, str) for outcome in outcomes.values()),
        downloaded=store.downloaded,
        num_bytes=store.num_bytes,
        out=out,
    )


def _fetch_all(
    store: _Store, urls: Iterable[str], workers: int, progress: Progress | None
) -> dict[str, str | RowError]:
    """URL -> the path of its file, or why it cannot be had."""
    wanted = list(urls)
    outcomes: dict[str, str | RowError] = {}
    try:
        with contextlib.closing(each(wanted, store.fetch, workers=workers, stop=store.stop)) as found:
            for url, outcome in found:
                if isinstance(outcome, OSError):  # what the network raises is a RowError by now; this is the disk
                    reason = outcome.strerror or outcome
                    raise CheckpointError(f"cannot write below {store.root}: {reason}") from outcome
                if isinstance(outcome, BaseException) and not isinstance(outcome, RowError):
                    raise outcome
                outcomes[url] = outcome
                if progress is not None:
                    progress(len(outcomes), len(wanted))
    finally:
        store.remove_parts()
    return outcomes


def _rewritten(
    source: PairSource, outcomes: dict[str, str | RowError], quarantine: Quarantine, root: Path
) -> Iterator[PreferencePair]:
    for file, row, pair in replace(source, images=None).candidates(quarantine, demonstrations=True):
        try:
            images = _local(pair.images, outcomes, source, root)
            rejected = None if pair.rejected_images is None else _local(pair.rejected_images, outcomes, source, root)
        except RowError as fault:
            source.put_aside(quarantine, file, row, fault, row_id=pair.id)
            continue
        quarantine.num_used += 1
        yield replace(pair, images=images, rejected_images=rejected)


def _urls(pair: PreferencePair) -> Iterable[str]:
    return (ref.path for ref in all_images(pair) if ref.path is not None and _SCHEME.match(ref.path))


def _local(
    images: tuple[ImageRef, ...], outcomes: dict[str, str | RowError], source: PairSource, root: Path
) -> tuple[ImageRef, ...]:
    """The images as the written file names them: below its root, or in the row.

    Raises:
        RowError: one that could not be fetched, or a file that does not lie below the root.
    """
    found = []
    for ref in images:
        outcome = outcomes.get(ref.path) if ref.path is not None else None
        if isinstance(outcome, RowError):
            raise outcome
        if outcome is not None:
            found.append(ImageRef(path=outcome))
        elif ref.path is not None:
            found.append(ImageRef(path=_below(ref.path, source, root)))
        else:
            found.append(ref)
    return tuple(found)


def _below(path: str, source: PairSource, root: Path) -> str:
    """A file that a row names by its path, as a path below the root of the written file."""
    places = [root] if source.images is None or source.images.root is None else [root, source.images.root]
    for place in places:
        full = place / path
        if full.is_file():
            if not without_links(full).is_relative_to(root):
                continue
            if full.is_relative_to(root):
                return full.relative_to(root).as_posix()
            return without_links(full).relative_to(root).as_posix()
    tried = " and ".join(str(place) for place in places)
    raise RowError(
        f"image {path[:300]!r} is no URL, and no file below --root {root} (looked for in {tried}); "
        "take a root that holds it",
        reason="image_outside_root",
    )


@dataclass
class _Store:
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
                        self._refuse_other_than_a_image(temporary)
                        temporary.chmod(0o644)
                        temporary.replace(path)
                        with self._lock:
                            self.downloaded += 1
                        return
                    except _TryAgainError as error:
                        pause = self.policy.backoff * 2 ** (attempt - 1)
                        if attempt == self.policy.attempts or self.stopped.is_set():
                            raise RowError(str(error), reason="fetch_failed") from error
                        if pause >= deadline.left:
                            raise self._too_late(f"; {error}") from error
                        self.stopped.wait(pause)
                    finally:
                        temporary.unlink(missing_ok=True)

    def _refuse_other_than_a_image(self, file: Path) -> None:
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
                    url = _redirected(url, place)
                    target = parse_url(url, self.policy)
                    continue
                self._save(answer, file)
                if deadline.is_over:  # the end of the file is the end of the connection, which was ours
                    raise self._too_late()
                return
            except (OSError, http.client.HTTPException) as error:
                if deadline.is_over:
                    raise self._too_late() from error
                raise _TryAgainError(f"the connection failed: {type(error).__name__}: {error}") from error
            except _TryAgainError as error:
                if deadline.is_over:
                    raise self._too_late() from error
                raise
            finally:
                connection.close()
        raise RowError(f"more than {self.policy.max_redirects} redirects", reason="fetch_failed")

    def _save(self, answer: http.client.HTTPResponse, file: IO[bytes]) -> None:
        if answer.status in _RETRIED:
            raise _TryAgainError(f"the server answered {answer.status}")
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
            raise _TryAgainError(f"the connection ended after {size} of {expected} bytes")


class _TryAgainError(Exception):
    """Something that may pass: a busy server, a broken connection."""


def _fault(reason: str, url: str, detail: str) -> RowError:
    return RowError(f"{url[:300]!r} {detail}", reason=reason)
