"""Regular expressions as Prometheus means them: RE2, anchored at both ends, a dot matches a newline too.

The one place that knows the library; whatever compares or rewrites label values with patterns does so through here.
Templates (`$1`, `${name}`) mean what Go's `Regexp.Expand` makes of them. Pure.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import re2

_MOST_DIGITS = 9
"""Of a group's number; Go reads longer ones as names."""
Expand = Callable[[Sequence[bytes | None]], bytes]
"""Makes a text of the groups of a match, the whole match first."""


class Pattern:
    """A compiled pattern for whole texts in UTF-8."""

    __slots__ = ("_fullmatch", "_groups", "_numbers")

    def __init__(self, pattern: str) -> None:
        """Compile; ValueError names the pattern and RE2's complaint."""
        compiled = _compile(pattern)
        self._fullmatch = compiled.fullmatch
        self._groups: int = compiled.groups
        self._numbers: dict[bytes, int] = compiled.groupindex

    def fits(self, text: bytes) -> bool:
        """Tell whether the pattern covers the text from end to end."""
        return self._fullmatch(text) is not None

    def groups(self, text: bytes) -> tuple[bytes | None, ...] | None:
        """Give what the groups caught, the whole text first; None when the pattern does not cover the text."""
        match = self._fullmatch(text)
        return None if match is None else (match.group(0), *match.groups())

    def template(self, text: str) -> Expand:
        """Compile a template; a group that there is not, or that caught nothing, is empty."""
        pieces = [
            piece.encode() if isinstance(piece, str) else self._number_of(piece[0]) for piece in parse_template(text)
        ]
        if all(isinstance(piece, bytes) for piece in pieces):
            constant = b"".join(piece for piece in pieces if isinstance(piece, bytes))
            return lambda _: constant
        return lambda groups: b"".join(
            [piece if isinstance(piece, bytes) else groups[piece] or b"" for piece in pieces if piece is not None]
        )

    def _number_of(self, name: str) -> int | None:
        if name.isascii() and name.isdigit() and len(name) <= _MOST_DIGITS and str(int(name)) == name:
            return int(name) if int(name) <= self._groups else None
        return self._numbers.get(name.encode())


def compile_anchored(pattern: str) -> Callable[[str], bool]:
    """Give a test for whole texts; ValueError names the pattern and RE2's complaint.

    RE2 takes time linear in the text whatever the pattern, so a pattern may come from outside.
    """
    fullmatch = _compile(pattern).fullmatch
    return lambda text: fullmatch(text.encode()) is not None


def parse_template(text: str) -> Iterator[str | tuple[str]]:
    """Cut a template into texts and, as tuples of one, names of groups.

    A name without braces is as long as it can be: `$1x` is the group "1x". `$$` is a dollar sign, and so is one that
    no name follows.
    """
    before, *behind = text.split("$")
    yield before
    rest = iter(behind)
    for part in rest:
        if not part and (after := next(rest, None)) is not None:
            yield "$" + after
            continue
        start = 1 if part.startswith("{") else 0
        end = start
        while end < len(part) and (part[end].isalpha() or part[end].isdecimal() or part[end] == "_"):
            end += 1
        if end == start or (start and not part.startswith("}", end)):
            yield "$" + part
        else:
            yield (part[start:end],)
            yield part[end + start :]


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    try:
        # Bytes spare the library the way back from byte offsets to characters, half of a match's time.
        return re2.compile(pattern.encode(), options)
    except UnicodeEncodeError as error:
        raise ValueError(f"not a regular expression: got {pattern!r}, which is not valid UTF-8") from error
    except re2.error as error:
        complaint = error.args[0]
        words = complaint.decode(errors="replace") if isinstance(complaint, bytes) else str(complaint)
        raise ValueError(f"not a regular expression: got {pattern!r}, RE2 says: {words}") from error
