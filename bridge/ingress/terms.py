"""What a sender asks for beside the samples: TTL, idempotency, proof of delivery, times of an import.

Owns the header and query names and how they are written. What they do is the pipeline's business. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

from bridge.durations import parse_duration_s, parse_ttl_ms
from bridge.errors import BadPushError

TTL, KEY, IMPORT = "X-Push-TTL", "Idempotency-Key", "X-Push-Import"
HEADERS = frozenset({TTL, KEY, IMPORT})
MAX_WAIT_S = 300.0
_DEFAULT_WAIT_S = 30.0
_MAX_KEY_CHARS = 255
_PARAMETERS = ("ttl", "wait", "timeout")


@dataclass(frozen=True, slots=True)
class Terms:
    """The wishes of one push."""

    ttl_ms: int | None = None
    """None when the push leaves it to the settings."""
    key: str = ""
    """Idempotency key, empty for none."""
    wait_s: float | None = None
    """How long the answer may wait for delivery, None when it shall not."""
    imported: bool = False
    """Whether the body's push times are the group's own."""


NO_TERMS = Terms()


def read_terms(query: str, headers: Mapping[str, str]) -> Terms:
    """Read the query of a push URL and its headers (any case); raises BadPushError for what is not understood.

    The header stands over the query for the TTL. Unknown query parameters are left alone, as Pushgateway does.
    """
    if KEY in headers and not headers[KEY]:
        raise _bad(KEY, "nothing", f"1 to {_MAX_KEY_CHARS} printable characters, or no such header")
    given = (headers.get(TTL, ""), headers.get(KEY, ""), headers.get(IMPORT, ""))
    if not query and given == ("", "", ""):
        return NO_TERMS
    return _read(query, *given)


def check_repeated(given: Mapping[str, Sequence[str]]) -> None:
    """Refuse a header that came several times and says different things; raises BadPushError."""
    for name, values in given.items():
        if len(set(values)) > 1:
            raise _bad(name, " and ".join(repr(value) for value in dict.fromkeys(values)), "one of them")


@lru_cache(1024)
def _read(query: str, ttl: str, key: str, imported: str) -> Terms:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if len(key) > _MAX_KEY_CHARS or not key.isprintable():
        raise _bad(KEY, f"{key[:20]!r}...", f"at most {_MAX_KEY_CHARS} printable characters")
    if imported.lower() not in {"", "true", "false"}:
        raise _bad(IMPORT, repr(imported), "true or false")
    return Terms(
        _ttl_ms(TTL if ttl else "ttl", ttl or parameters.get("ttl", "")),
        key,
        _wait_s(parameters.get("wait"), parameters.get("timeout")),
        imported.lower() == "true",
    )


def _ttl_ms(name: str, text: str) -> int | None:
    if not text:
        return None
    try:
        return parse_ttl_ms(text)
    except ValueError as error:
        raise _bad(name, repr(text), "a duration such as 90m or 8d, 0 (sent once) or inf (until deleted)") from error


def _wait_s(wait: str | None, timeout: str | None) -> float | None:
    if wait is None:
        return None
    if wait != "delivered":
        raise _bad("wait", repr(wait), "delivered")
    if timeout is None:
        return _DEFAULT_WAIT_S
    try:
        return min(parse_duration_s(timeout), MAX_WAIT_S)
    except ValueError as error:
        raise _bad("timeout", repr(timeout), f"a duration such as 10s, at most {MAX_WAIT_S:g}s") from error


def _bad(name: str, got: str, want: str) -> BadPushError:
    return BadPushError("terms", f"{name}: got {got}, want {want}")
