"""Templates: a text body less its values, so that the next body of the same form is read by comparison.

A batch job pushes the same lines again and again with other numbers in them. Owns the proof that a body
differs from an earlier one in nothing but numbers, and the reading of those. Any other body is the
parsers' business, and so is every error message. Pure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from operator import itemgetter
from typing import Any, Literal
from weakref import WeakValueDictionary

from bridge.exposition.lexing import parse_go_float
from bridge.model import Family, Sample

_NUMBER_BYTES = b"0123456789+-.eE"
_FREE_TYPES = frozenset({"gauge", "untyped"})
_FIXED_TYPES = frozenset({"info", "stateset"})
_EXEMPLAR_MARK = b" # "
_MOST_BYTES_PER_SERIES = 4096

TextFormat = Literal["text", "openmetrics"]
_Picker = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Template:
    """The form of a text body: what its parser made of everything but the values holds for the next one too."""

    format: TextFormat
    lines: tuple[bytes, ...]
    """Samples up to their value, comments whole."""
    fixed_bytes: int
    comments: int
    """Lines without a sample, the empty one behind the last LF among them."""
    samples: _Picker
    """Chooses the lines of samples, in the order of the parsed families."""
    counts: _Picker
    """Chooses the values that a parser might refuse: negative ones of counters and buckets."""

    def read(self, body: bytes) -> tuple[float, ...] | None:
        """The values of a body of this format and form, in the families' order; None when it needs the parser."""
        lines = body.split(b"\n")
        if len(lines) != len(self.lines):
            return None
        rests = list(map(bytes.removeprefix, lines, self.lines))
        # A prefix that does not fit stays in its rest, and a comment that goes on leaves one rest too many.
        if sum(map(len, rests)) != len(body) - self.fixed_bytes or rests.count(b"") != self.comments:
            return None
        try:
            values = _read_numbers(self.samples(rests))
        except ValueError:
            return None
        return values if min(self.counts(values), default=0.0) >= 0 else None


def _read_numbers(words: Sequence[bytes]) -> tuple[float, ...]:
    # With these characters alone Python and Go read the same, but for what overflows to infinity.
    if not b"".join(words).translate(None, _NUMBER_BYTES):
        values = tuple(map(float, words))
        if isfinite(sum(values)):
            return values
    return tuple(parse_go_float(word.decode()) for word in words)


_known: WeakValueDictionary[tuple[object, ...], Template] = WeakValueDictionary()
"""Groups whose bodies look alike share one template."""


def make_template(body: bytes, format_: TextFormat, families: Sequence[Family]) -> Template | None:
    """The form of a body that was parsed to `families`, None when it has none that `read` could prove.

    That is so with explicit timestamps, exemplars, types whose values are prescribed, and a body that is
    mostly comments, which is not worth its memory.
    """
    pairs = [(family, sample) for family in families for sample in family.samples]
    if len(body) >= _MOST_BYTES_PER_SERIES * len(pairs) or any(family.type in _FIXED_TYPES for family in families):
        return None
    lines = body.split(b"\n")
    places = tuple(sample.line - 1 for _, sample in pairs)
    for at, (_, sample) in zip(places, pairs, strict=True):
        if sample.timestamp_ms is not None or _EXEMPLAR_MARK in lines[at]:
            return None
        lines[at] = lines[at][: lines[at].rfind(b" ") + 1]
    counts = tuple(at for at, (family, sample) in enumerate(pairs) if _has_value_rule(family, sample))
    key = format_, tuple(lines), places, counts
    fixed_bytes = sum(map(len, lines)) + len(lines) - 1
    template = _known.get(key) or Template(
        format_, key[1], fixed_bytes, len(lines) - len(places), _picker(places), _picker(counts)
    )
    values = template.read(body)
    if values is None or list(map(repr, values)) != [repr(sample.value) for _, sample in pairs]:
        return None
    _known[key] = template
    return template


def _has_value_rule(family: Family, sample: Sample) -> bool:
    return family.type not in _FREE_TYPES and not (family.type == "summary" and sample.name == family.name)


def _picker(places: tuple[int, ...]) -> _Picker:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda sequence: [sequence[at] for at in places]
