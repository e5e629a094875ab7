"""Which hosts and addresses may be asked for images: names as one writes them, addresses that are public."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from mmpref.errors import ConfigError

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"^(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*$")
_NUMBER = re.compile(r"^(?:0x[0-9a-f]*|[0-9]+)$")

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# beside what Python's table says, which differs between its versions
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4", "2001:db8::/32", "3fff::/20")
)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def normal_host(given: str) -> str:
    """A host as URLs are compared with: lower case, no dot at its end, other letters in their ASCII form.

    Raises:
        ConfigError: it is no host name; the message says what to write.
    """
    text = given.strip()
    text = re.sub(r"^https://", "", text, flags=re.IGNORECASE)
    text = text.removesuffix("/").removesuffix(":443")
    below, text = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        name = text.rstrip(".").encode("idna").decode("ascii").lower() if text.count("..") == 0 else ""
    except UnicodeError:
        name = ""
    if not HOST.match(name):
        hint = "name the host alone, without http, port and path: images.example.org, or *.example.org"
        raise ConfigError(f"--host {given!r} is no name of a host; {hint}")
    if _NUMBER.match(name.rpartition(".")[2]):
        raise ConfigError(f"--host {given!r} is an address; images come from hosts with a name: images.example.org")
    if below and "." not in name:
        raise ConfigError(f"--host {given!r} would allow every host of a whole domain; name one: *.example{'.' + name}")
    return below + name


def is_public(text: str) -> bool:
    """Whether an address, as the name server gave it, is one of the public network, and every address inside it too.

    An IPv6 address may carry an IPv4 address that a gateway or this machine's tunnel delivers to. What is not known to
    be public is not.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # not an address, or one in another notation (0177.0.0.1, 0x7f.1)
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address.scope_id is not None:  # fe80::1%eth0
        return False
    if address in _MAPPED or address in _NAT64:  # nothing but the address inside
        return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
    outside = address in _GLOBAL_UNICAST and address.is_global and not address.is_multicast
    return outside and all(is_public(str(inner)) for inner in _inside(address))


def _inside(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address of a tunnel carries: 6to4, Teredo, ISATAP."""
    if address.sixtofour is not None:
        yield address.sixtofour
    yield from address.teredo or ()
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
