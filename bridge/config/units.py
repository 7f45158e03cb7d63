"""What settings are made of: durations, sizes, addresses, secrets, and the rules that several sections share.

Owns the reading of single values. Sections and their defaults stand beside it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError
from yarl import URL

from bridge.durations import parse_duration_s, parse_ttl_ms
from bridge.sizes import parse_size_bytes

_LOOKBACK_S = 300
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


def not_negative(value: float) -> float:
    """Refuse what is less than 0; raises ValueError."""
    if value < 0:
        msg = f"must be 0 or more, got {value:g}"
        raise ValueError(msg)
    return value


def positive(value: float) -> float:
    """Refuse what is not more than 0; raises ValueError."""
    if value <= 0:
        msg = f"must be more than 0, got {value:g}"
        raise ValueError(msg)
    return value


def below_lookback(seconds: float) -> float:
    """Refuse an interval in seconds at which instant queries would lose sight; raises ValueError."""
    if not 1 <= seconds < _LOOKBACK_S:
        msg = f"must be from 1s to less than 5m, the time that an instant query looks back; got {seconds:g}s"
        raise ValueError(msg)
    return seconds


Duration = Annotated[float, BeforeValidator(parse_duration_s)]
Ttl = Annotated[int, BeforeValidator(parse_ttl_ms)]
Size = Annotated[int, BeforeValidator(parse_size_bytes), AfterValidator(positive)]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (all interfaces); ValueError otherwise."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the last TCP port
        msg = f"not an address: got {address!r}, want host:port, for example 127.0.0.1:9091"
        raise ValueError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


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


def check_label_names(labels: Mapping[str, str]) -> None:
    """Refuse names that a label of the user's cannot have; raises ValueError."""
    for name in labels:
        if not LABEL_NAME.fullmatch(name) or name.startswith("__"):
            msg = f"not a label name: got {name!r}"
            raise ValueError(msg)


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
