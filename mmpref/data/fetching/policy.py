"""Which URLs may be fetched, and from which addresses."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from mmpref.data.fetching.public_hosts import HOST, is_public, normal_host
from mmpref.data.quarantine import RowError

Resolve = Callable[[str, int], Sequence[str]]


Connect = Callable[[str, str, int, float], http.client.HTTPConnection]


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


def redirected(url: str, place: str) -> str:
    """The URL that a redirect leads to.

    Raises:
        RowError: ``fetch_url``, when it is none.
    """
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


def _fault(reason: str, url: str, detail: str) -> RowError:
    return RowError(f"{url[:300]!r} {detail}", reason=reason)
