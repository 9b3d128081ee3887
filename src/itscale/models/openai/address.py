"""Where a server is, what it is asked for, and the key it was given.

    MODEL@URL[#option=value,...]        the model may be left out where the server has just one

A key comes from the environment or a file, belongs to one host, and never shows: `ITSCALE_API_KEY`
is for the server in the spec; `OPENAI_API_KEY` goes to api.openai.com (or the host of
`OPENAI_BASE_URL`) and to nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from itscale.errors import OptionError, did_you_mean

__all__ = ["ALL", "Address", "Key", "find_key"]

_OPTIONS = ("boundary", "key_file", "timeout", "top_logprobs")
ALL = -1
"""As many tokens as there are."""
_FORM = "write openai:MODEL@http://HOST:PORT/v1"


@dataclass(frozen=True, slots=True)
class Address:
    """A model on a server.

    Raises:
        OptionError: the URL or an option is not one.
    """

    model: str
    """Empty for the only model there is."""
    url: str
    """Up to and including /v1, without a slash at the end."""
    boundary: str = "\n\n"
    """Text on which a step ends."""
    timeout_s: float = 600.0
    """One attempt of one call."""
    key_file: str | None = None
    top_logprobs: int | None = None
    """How many likeliest tokens are asked for where a method looks at entropies, `ALL` for all there are.
    None leaves it at 20, or at none where the server does not tell that many."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in `MODEL@URL#option=value,...`; values may be percent-encoded (%0A is a newline)."""
        rest, _, fragment = text.partition("#")
        at = max(rest.rfind("@http://"), rest.rfind("@https://"))
        if at < 0:
            raise OptionError(f"model 'openai:{text}' names no server; {_FORM}")
        options = _options(fragment)
        timeout = options.get("timeout", "600")
        try:
            timeout_s = float(timeout)
        except ValueError:
            timeout_s = math.nan
        if not 0 < timeout_s < math.inf:
            raise OptionError(f"timeout is {timeout!r}; give seconds above 0")
        boundary = options.get("boundary", "\n\n")
        if not boundary:
            raise OptionError("boundary is empty; give the text a step ends on, boundary=%0A say")
        top = _top(options["top_logprobs"]) if "top_logprobs" in options else None
        return cls(rest[:at], _url(rest[at + 1 :]), boundary, timeout_s, options.get("key_file"), top)

    @property
    def root(self) -> str:
        """The URL without /v1, where a server's own endpoints are."""
        return self.url.removesuffix("/v1")

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc


class Key:
    """A secret for one host: no repr, log or error shows it."""

    __slots__ = ("_host", "_text")

    def __init__(self, text: str, host: str) -> None:
        self._text = text
        self._host = host

    def header_for(self, url: str) -> dict[str, str]:
        """The authorization header for a request to `url`; empty for any other host."""
        return {"Authorization": f"Bearer {self._text}"} if urlsplit(url).netloc == self._host else {}

    def masked(self, text: str) -> str:
        """`text` without the key in it."""
        return text.replace(self._text, "***")

    def __repr__(self) -> str:
        return f"Key(***, {self._host!r})"


def find_key(address: Address, environment: Mapping[str, str]) -> Key | None:
    """The key for this address: its key file, else the environment; None if there is none.

    Raises:
        OptionError: the key file cannot be read or is empty.
    """
    host = address.host
    if address.key_file is not None:
        try:
            text = Path(address.key_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                f"cannot read the key file {address.key_file!r} ({type(error).__name__}); "
                "give a file that holds the key and nothing else"
            ) from None
        return _key(text, host, f"the key file {address.key_file!r}")
    if environment.get("ITSCALE_API_KEY"):
        return _key(environment["ITSCALE_API_KEY"].strip(), host, "ITSCALE_API_KEY")
    base = environment.get("OPENAI_BASE_URL", "")
    own = urlsplit(base or "https://api.openai.com").netloc
    if environment.get("OPENAI_API_KEY") and host == own and (base or address.url.startswith("https:")):
        return _key(environment["OPENAI_API_KEY"].strip(), host, "OPENAI_API_KEY")
    return None


def _key(text: str, host: str, where: str) -> Key:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise OptionError(f"{where} holds no key; it must be one line of printable characters")
    return Key(text, host)


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if parts.username or parts.password:
        raise OptionError(f"a URL must not carry a password; set ITSCALE_API_KEY instead, and {_FORM}")
    if not valid or parts.query:
        raise OptionError(f"{text!r} is not the URL of a server; {_FORM}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _top(text: str) -> int:
    if text == "all":
        return ALL
    if not text.isascii() or not text.isdigit() or int(text) < 2:
        raise OptionError(f"top_logprobs is {text!r}; give a number of tokens from 2, or all")
    return int(text)


def _options(fragment: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in fragment.split(",") if fragment else ():
        name, equals, value = part.partition("=")
        name = name.replace("-", "_")
        if name not in _OPTIONS:
            raise OptionError(did_you_mean("option of an openai model", name, _OPTIONS))
        if not equals or name in options:
            raise OptionError(f"option {name!r} needs one value; write #{name}=VALUE")
        options[name] = unquote(value)
    return options
