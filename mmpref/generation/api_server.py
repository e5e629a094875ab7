"""Where an OpenAI-compatible API is, and its key.

The key is read from an environment variable when a request is made; it is in no attribute, message or file.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mmpref import api_keys
from mmpref.errors import ConfigError

ATTEMPTS = 6
CONCURRENCY = 8
TIMEOUT = 120.0
OPENAI_HOST = "api.openai.com"
OPENAI_KEY_ENV = "OPENAI_API_KEY"
_AS_WRITTEN = "write it as http://127.0.0.1:8000/v1"
_HOST = re.compile(r"([\w-]{1,63}\.)*[\w-]{1,63}\.?")
_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_HOST = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a chat API is and how it is asked.

    Args:
        url: base address, with or without ``/v1``; http or https.
        model: the model's name there.
        key_env: environment variable with the API key. None: no key, but for api.openai.com ``OPENAI_API_KEY``, which
            is sent nowhere else unless it is named here.
        timeout: seconds in which a whole reply must have come, from the name server to the last byte; a request that
            reaches them is made once more.
        attempts: how often one request is tried.
        concurrency: requests under way at once.
        pause: seconds before the second attempt; doubled each time.
    """

    url: str
    model: str
    key_env: str | None = None
    timeout: float = TIMEOUT
    attempts: int = ATTEMPTS
    concurrency: int = CONCURRENCY
    pause: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _base_url(self.url))
        if self.key_env is not None and self.key_env not in os.environ and api_keys.may_be_key(self.key_env):
            if len(self.key_env) >= 16:  # as keys are; from here on it is cut out everywhere
                api_keys.remember(self.key_env)
            raise ConfigError(
                "--key-env (and --judge-key-env) takes the NAME of an environment variable that holds the API key, for "
                f"example {OPENAI_KEY_ENV}. What was given names none that is set, and is not repeated here: it may be "
                "the key itself"
            )
        if not self.model:
            raise ConfigError(f"no model is named for the server {self.url}")
        if not 0 < self.timeout < float("inf") or self.attempts < 1 or self.concurrency < 1:
            raise ConfigError("timeout must be a number of seconds > 0, attempts and concurrency >= 1")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    def key(self) -> str | None:
        """The API key of this moment.

        Raises:
            ConfigError: ``key_env`` is named and not set.
        """
        name = self.key_env
        if name is None:
            if urlsplit(self.url).hostname != OPENAI_HOST:
                return None
            name = OPENAI_KEY_ENV
        value = os.environ.get(name, "").strip()
        if not value:
            if self.key_env is None:
                return None
            raise ConfigError(f"the environment variable {name}, which should hold the API key, is not set")
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"{name} holds characters that no API key has")
        api_keys.remember(value)
        return value


def _base_url(url: str) -> str:
    """The address up to and with ``/v1``.

    Raises:
        ConfigError: no request could be sent there. What follows a login or ``?`` is not said: it may be a key.
    """
    shown = re.split("[?#]", _without_login(url), maxsplit=1)[0]
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise ConfigError(f"server address {shown!r:.200} is none ({err}); {_AS_WRITTEN}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"server address {shown!r:.200} must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the server address holds a login; put the key into an environment variable and name that")
    if parts.query or parts.fragment:
        raise ConfigError(f"the server address {parts.scheme}://{parts.netloc}{parts.path} must end there")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    base = f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
    named = ":" in host or (len(host) <= _LONGEST_HOST and _HOST.fullmatch(host) is not None)
    if not named or port == 0 or not base.isprintable() or (_NUMBERS.fullmatch(host) and not _is_ip(host)):
        raise ConfigError(f"server address {shown!r:.200} is none (no host or port is called so); {_AS_WRITTEN}")
    return base


def _is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _without_login(url: str) -> str:
    return url.rpartition("@")[2]
