"""What a dropped file says, and how: directory labels and directive put together, the body read to series. Pure.

Owns whose group a file is. Where the file is and what becomes of it is not known here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from bridge.content import Content, repeat
from bridge.durations import parse_ttl_ms
from bridge.errors import BadPushError
from bridge.exposition.formats import format_of
from bridge.ingress.directive import MARK, Directive, find_directives
from bridge.model import Labels

_DIRECTIVES = re.compile(b"^" + MARK.encode() + b".*\n?", re.MULTILINE)
_LINE = re.compile(r"\bline (\d+)")
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a file that does not say otherwise."""

    labels: Mapping[str, str]
    given: bool
    """Whether the user set them, or they are the agent's own."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file's own words."""

    grouping: Labels
    ttl_ms: int | None
    """None when the file leaves it to the rules."""
    replace_all: bool = True
    key: str = ""


def read_state(body: bytes, defaults: Defaults) -> Dropped:
    """Read the directives of a file that is the state of its group; raises BadPushError."""
    directive = _directives(body)
    if directive.method is not None or directive.key is not None:
        raise BadPushError("directive", "PUSHBRIDGE: method and key are for spool directories; leave them out")
    return Dropped(_grouping(defaults.labels, directive.labels), _ttl_ms(directive))


def read_push(body: bytes, defaults: Defaults) -> Dropped:
    """Read the directives of a file that is a push; raises BadPushError.

    A job that names itself names its whole group, as it would by HTTP, unless the user gave the directory labels.
    """
    directive = _directives(body)
    named = any(name == "job" for name, _ in directive.labels)
    labels = {} if named and not defaults.given else defaults.labels
    grouping = _grouping(labels, directive.labels)
    return Dropped(grouping, _ttl_ms(directive), directive.method != "post", directive.key or "")


def _directives(body: bytes) -> Directive:
    if MARK.encode() not in body:
        return Directive()
    try:
        return find_directives(body)
    except ValueError as error:
        raise BadPushError("directive", f"PUSHBRIDGE: {error}") from error


def _grouping(defaults: Mapping[str, str], labels: Labels) -> Labels:
    merged = {**defaults, **dict(labels)}
    if not merged.get("job"):
        raise BadPushError("directive", "PUSHBRIDGE: the label job is empty")
    return tuple(merged.items())


def _ttl_ms(directive: Directive) -> int | None:
    if directive.ttl is None:
        return None
    try:
        return parse_ttl_ms(directive.ttl)
    except ValueError as error:
        want = "want a duration such as 90m or 8d, 0 (sent once) or inf (until it is removed)"
        raise BadPushError("directive", f"PUSHBRIDGE: ttl: got {directive.ttl!r}, {want}") from error


def as_sent(body: bytes) -> bytes:
    """The body without its directives: what the same push by HTTP has, which speaks in headers."""
    return _DIRECTIVES.sub(b"", body)


def digest(*pieces: bytes) -> bytes:
    """Tell one content from another."""
    state = blake2b(digest_size=_DIGEST_BYTES)
    for piece in pieces:
        state.update(len(piece).to_bytes(8) + piece)
    return state.digest()


def repeated(parts: tuple[Content, ...], body: bytes) -> Content | None:
    """Read a body that has the form of the one before, values apart; None when it does not."""
    return repeat(parts, body, format_of(""))


def line_of(message: str) -> int | None:
    """The line that a refusal names."""
    found = _LINE.search(message)
    return int(found[1]) if found else None
