"""What settings are made of: durations, sizes, addresses, secrets, and the rules that several sections share.

Owns the reading of single values. Sections and their defaults stand beside it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError
from yarl import URL

from bridge.config.faults import Fault, raise_faults
from bridge.durations import duration_text, parse_duration_s, parse_ttl_ms, ttl_text
from bridge.sizes import parse_size_bytes, size_text

_LOOKBACK_S = 300
_IPV6 = 6
_HOST = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?\.?", re.ASCII)
_SEGMENT = r"[a-zA-Z0-9._~!$&'()*+,;=:@-]+"
_PREFIX = re.compile(f"/?{_SEGMENT}(/{_SEGMENT})*/?", re.ASCII)
METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_N = TypeVar("_N", bound=float)
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


def positive(value: float) -> float:
    """Refuse what is not more than 0; raises ValueError."""
    if value <= 0:
        msg = f"must be more than 0, got {value:g}"
        raise ValueError(msg)
    return value


def from_to(least: str, most: str, read: Callable[[str], float] = int) -> Callable[[_N], _N]:
    """Make a check that refuses what is less or more than these, as they are written; raises ValueError."""
    low, high = read(least), read(most)

    def check(value: _N) -> _N:
        if not low <= value <= high:
            msg = f"want from {least} to {most}"
            raise ValueError(msg)
        return value

    return check


def below_lookback(seconds: float) -> float:
    """Refuse an interval in seconds at which instant queries would lose sight; raises ValueError."""
    if not 1 <= seconds < _LOOKBACK_S:
        msg = f"must be from 1s to less than 5m, the time that an instant query looks back; got {seconds:g}s"
        raise ValueError(msg)
    return seconds


Duration = Annotated[float, BeforeValidator(parse_duration_s), PlainSerializer(duration_text)]
Ttl = Annotated[int, BeforeValidator(parse_ttl_ms), PlainSerializer(ttl_text)]
Size = Annotated[int, BeforeValidator(parse_size_bytes), PlainSerializer(size_text)]
"""Shown as they may be written, with their units."""
Count = Annotated[int, AfterValidator(from_to("1", "1000000000"))]
"""Of things that are counted in memory or by SQLite."""
Limit = Annotated[int, AfterValidator(from_to("0", "1000000000"))]
"""A count where 0 stands for none."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (all interfaces); ValueError otherwise."""
    host, colon, port = address.rpartition(":")
    # 65535 is the last TCP port. A colon in the host needs brackets: nobody knows where the port of ::1:80 begins.
    good = colon and port.isascii() and port.isdigit() and int(port) <= 65535 and _is_listener(host)  # noqa: PLR2004
    if not good:
        msg = f"not an address: got {address!r}, want host:port, for example 127.0.0.1:9091"
        raise ValueError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_listener(host: str) -> bool:
    """Tell whether a host can be listened on at all: none (all interfaces), a name, an address."""
    try:
        if host.startswith("["):
            return host.endswith("]") and ip_address(host[1:-1]).version == _IPV6
        if host and not host.strip("0123456789."):
            return bool(ip_address(host))
    except ValueError:
        return False
    return not host or _HOST.fullmatch(host) is not None


def checked_address(address: str) -> str:
    """Refuse what `split_address` cannot read; raises ValueError."""
    split_address(address)
    return address


def http_url(url: str) -> str:
    """Refuse what is no http or https URL; raises ValueError."""
    try:
        # The client's own reading, and the port's, are what checks them.
        URL(url)
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        good = False
    if not good:
        msg = f"not an http(s) URL: got {shown_url(url)!r}"
        raise ValueError(msg)
    return url


def checked_prefix(path: str) -> str:
    """Refuse a prefix that no request's path can begin with; raises ValueError."""
    if path.strip("/") and (not _PREFIX.fullmatch(path) or {".", ".."} & set(path.split("/"))):
        msg = f"not a path: got {path!r}, want for example /pushbridge"
        raise ValueError(msg)
    return path


def own_url(url: str) -> str:
    """Refuse a URL under which the agent cannot be reached; raises ValueError."""
    if url:
        checked_prefix(urlsplit(http_url(url)).path)
        if set("?#@") & set(url):
            msg = f"got {shown_url(url)!r} with more behind it or in front, want for example https://example.org/pushbridge"
            raise ValueError(msg)
    return url


def is_text(text: str) -> str:
    """Refuse what cannot be sent or shown: nothing but blanks, control characters, half of a character."""
    if text and (not text.strip() or not text.isprintable()):
        msg = f"got {text!r}, want printable text"
        raise ValueError(msg)
    return text


def some_path(path: str) -> str:
    """Refuse an empty path, which would be the working directory; raises ValueError."""
    if not path:
        msg = "got nothing, want a path"
        raise ValueError(msg)
    return path


def is_host(name: str) -> bool:
    """Tell whether a name can be looked up at all: no empty or overlong parts."""
    try:
        return bool(name.encode("idna")) and not name.startswith(".")
    except UnicodeError:
        return False


def shown_url(url: str) -> str:
    """Return what may be shown of a URL: no user, no password, no query, no fragment."""
    scheme, found, rest = re.split("[?#]", url, maxsplit=1)[0].rpartition("://")
    host, slash, path = rest.partition("/")
    # A slash in the password would move the @ behind it, so the last one counts wherever it is.
    return f"{scheme}{found}{(host + slash + path).rpartition('@')[2]}"


def _read_secret(value: object) -> object:
    # An error of pydantic's own would carry the value.
    if isinstance(value, SecretStr | str):
        return value
    raise PydanticCustomError(SECRET_ERROR, "want a text (what was given is not shown)")


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("directory", "")) / path


SECRET_ERROR = "secret"  # noqa: S105 - the name of a kind of error
"""Type of the errors of secrets, whose input must not be shown."""

Secret = Annotated[SecretStr, BeforeValidator(_read_secret)]
"""Shown nowhere, neither in errors nor in reprs."""

FilePath = Annotated[Path, AfterValidator(_beside_the_file)]
"""Relative to the directory of the configuration file, as in Prometheus."""


def label_faults(labels: Mapping[str, str]) -> Iterator[Fault]:
    """Find names that a label of the user's cannot have."""
    for name in labels:
        if not LABEL_NAME.fullmatch(name) or name.startswith("__"):
            yield (name,), f"not a label name: got {name!r}"


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def _faults(self) -> Iterator[Fault]:
        """Find what keys do not agree on that are good one by one."""
        yield from ()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        raise_faults(self._faults())
        return self
