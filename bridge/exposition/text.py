"""Reads the Prometheus text format 0.0.4, accepting exactly what Pushgateway's Go parser accepts.

The rule for every function: the first error ends the parse, and names its line and the fix. Checks that need
more than one body (duplicates, type clashes, grouping labels) must not live here, nor any change of values.
Source: prometheus/common expfmt/text_parse.go.
"""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn

from bridge.errors import BadPushError
from bridge.exposition.lexing import (
    FLOAT_PATTERN,
    LABEL_NAME,
    METRIC_NAME,
    QUOTED,
    is_utf8,
    parse_go_float,
    quote,
    unescape,
)
from bridge.model import Family, Labels, MetricType, Sample

__all__ = ["parse_go_float", "parse_text"]

_TYPES: Final[dict[str, MetricType]] = {
    "counter": "counter",
    "gauge": "gauge",
    "summary": "summary",
    "untyped": "untyped",
    "histogram": "histogram",
    "gauge_histogram": "gaugehistogram",
    "gaugehistogram": "gaugehistogram",
}
_SUFFIXES: Final[dict[MetricType, tuple[str, ...]]] = {
    "summary": ("_count", "_sum"),
    "histogram": ("_count", "_sum", "_bucket"),
    "gaugehistogram": ("_count", "_sum", "_bucket"),
}
_BOUND_LABEL: Final[dict[MetricType, str]] = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le"}

_PAIR: Final = r'[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*"'
_PLAIN_LINE: Final = re.compile(
    rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{(?:({_PAIR}(?:,{_PAIR})*),?)?\}})?"
    rf"[ \t]+({FLOAT_PATTERN})(?:[ \t]+([+-]?[0-9]{{1,18}}))?"
)
_PLAIN_PAIR: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"\\]*)"')
_BLANKS: Final = re.compile(r"[ \t]*")
_WORD: Final = re.compile(r"[^ \t\n]*")
_INTEGER: Final = re.compile(r"([+-]?)0*([0-9]{1,19})")
_MIN_INT64: Final = -(2**63)
_MAX_INT64: Final = 2**63 - 1
_CRLF_FIX: Final = "; the line ends in CR LF: end every line with LF alone"


def parse_text(body: bytes, *, utf8_names: bool = False) -> tuple[Family, ...]:
    """Read a whole body of text format 0.0.4; the first error discards everything.

    Families come in the order of their first mention, those without samples are left out. Labels keep body
    order, `le` and `quantile` their spelling. A summary or histogram line that Go drops without an error (no
    bound label, or a NaN one) is dropped here too. `utf8_names` allows quoted names outside the legacy character set.

    Raises `BadPushError` with reason `parse`, its text starting `text format parsing error in line N:`.
    """
    lines = body.decode("utf-8", "surrogateescape").split("\n")
    last = lines.pop()
    parser = _Parser(utf8_names=utf8_names, plain=_is_valid(body))
    for number, line in enumerate(lines, 1):
        parser.read_line(line, number)
    if last.strip(" \t"):
        parser.number = len(lines) + 1
        parser.fail(f"unexpected end of input stream after {quote(last)}; end the last line with a line feed (LF)")
    return tuple(
        Family(draft.name, draft.type or "untyped", draft.help or "", tuple(draft.samples))
        for draft in parser.families.values()
        if draft.samples
    )


def _is_valid(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


class _LineError(Exception):
    """What is wrong with the line at hand, before the line number is put in front."""


@dataclass(slots=True)
class _Draft:
    """A family while its lines are read; `type` and `help` are None until a line fixes them."""

    name: str
    type: MetricType | None = None
    help: str | None = None
    samples: list[Sample] = field(default_factory=list)


class _Parser:
    """The families seen so far and the line at hand."""

    def __init__(self, *, utf8_names: bool, plain: bool) -> None:
        self.families: dict[str, _Draft] = {}
        self.number = 0
        self._utf8_names = utf8_names
        # With broken UTF-8 somewhere each label value must be looked at, so the fast way is off.
        self._plain = plain
        # Never stale: Go looks for the exact name first, and a joined name never gets a family of its own.
        self._resolved: dict[str, tuple[_Draft, str]] = {}

    def fail(self, message: str) -> NoReturn:
        raise BadPushError("parse", f"text format parsing error in line {self.number}: {message}")

    def read_line(self, line: str, number: int) -> None:
        """Take one line without its LF."""
        self.number = number
        try:
            match = _PLAIN_LINE.fullmatch(line) if self._plain else None
            if match is None or not self._read_plain(match):
                self._read_general(line)
        except _LineError as error:
            fix = _CRLF_FIX if line.endswith("\r") else ""
            raise BadPushError("parse", f"text format parsing error in line {number}: {error}{fix}") from error

    def _read_plain(self, match: re.Match[str]) -> bool:
        name, inner, number, stamp = match.groups()
        labels: list[tuple[str, str]] = _PLAIN_PAIR.findall(inner) if inner else []
        if len(labels) > 1 and len(dict(labels)) != len(labels):
            return False
        if inner and "__name__" in inner:
            return False
        draft, suffix = self._resolved.get(name) or self._resolve(name)
        if draft.type is None:
            draft.type = "untyped"
        timestamp_ms = None if stamp is None else int(stamp)
        self._add(draft, suffix, Sample(name, tuple(labels), _value(number), timestamp_ms, self.number))
        return True

    def _read_general(self, line: str) -> None:
        start = _skip(line, 0)
        # The LF stands at the end again so that no scan can run past the line.
        text = line + "\n"
        if text[start] == "\n":
            return
        if text[start] == "#":
            self._read_comment(text, start + 1)
            return
        name, pairs, at = self._read_series(text, start)
        draft, suffix = self._resolve(name)
        if draft.type is None:
            draft.type = "untyped"
        labels = _unique_labels(pairs, draft)
        value, timestamp_ms = _read_value(text, at)
        self._add(draft, suffix, Sample(name, labels, value, timestamp_ms, self.number))

    def _read_comment(self, text: str, at: int) -> None:
        start = _skip(text, at)
        keyword = _word(text, start)
        at = start + len(keyword)
        if keyword not in ("HELP", "TYPE") or text[at] == "\n":
            return
        at = _skip(text, at)
        if text[at] == "\n":
            return
        start = at
        name, at = self._read_name(text, start, METRIC_NAME)
        if text[at] == "\n" and name:
            return
        if not name or text[at] not in " \t":
            raise _LineError(
                f"invalid metric name in comment, got {quote(_word(text, start))}; "
                f"want # {keyword} <metric name> <text>"
            )
        self._check_metric_name(name)
        draft, _ = self._resolve(name)
        at = _skip(text, at)
        if text[at] == "\n":
            return
        if keyword == "HELP":
            self._set_help(draft, text[at:-1])
        else:
            self._set_type(draft, text[at:-1])

    def _set_help(self, draft: _Draft, text: str) -> None:
        if draft.help is not None:
            raise _LineError(f"second HELP line for metric name {quote(draft.name)}; keep one of them")
        help_text = _unescape(text)
        # Go does not look at the encoding of a HELP text, but whoever shows it needs valid UTF-8.
        draft.help = help_text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def _set_type(self, draft: _Draft, text: str) -> None:
        if draft.type is not None:
            raise _LineError(
                f"second TYPE line for metric name {quote(draft.name)}, or TYPE reported after samples; "
                "put one TYPE line before the first sample"
            )
        # Go drops backslashes here, since it reads them as the start of an escape it then ignores.
        found = _TYPES.get(text.replace("\\", "").lower())
        if found is None:
            raise _LineError(
                f"unknown metric type {quote(text)}; want counter, gauge, histogram, gaugehistogram, summary or untyped"
            )
        draft.type = found

    def _read_series(self, text: str, at: int) -> tuple[str, list[tuple[str, str]], int]:
        """Read name and labels; the position given back is that of the value."""
        name = ""
        if text[at] != "{":
            name, at = self._read_name(text, at, METRIC_NAME)
            if not name:
                raise _LineError(
                    f"invalid metric name, got {quote(_word(text, at))}; want letters, digits, _ and :, no digit first"
                )
            self._check_metric_name(name)
            at = _skip(text, at)
            if text[at] != "{":
                return name, [], at
        inside = not name
        labels: list[tuple[str, str]] = []
        at = _skip(text, at + 1)
        while text[at] != "}":
            item, at = self._read_name(text, at, LABEL_NAME)
            if not item:
                raise _LineError(
                    f"invalid label name for metric {quote(name)}, got {quote(text[at])}; "
                    "want letters, digits and _, no digit first"
                )
            at = _skip(text, at)
            if text[at] == "=":
                self._check_label_name(item)
                value, at = _read_label_value(text, _skip(text, at + 1))
                labels.append((item, value))
            else:
                name = self._take_inner_name(name, item, text[at], inside=inside)
            if text[at] == ",":
                at = _skip(text, at + 1)
            elif text[at] != "}":
                raise _LineError(
                    f"unexpected end of label value {quote(labels[-1][1])}, found {quote(text[at])}; want , or }}"
                )
        if not name:
            raise _LineError("invalid metric name, got none; want a name before { or quoted as first item inside")
        return name, labels, _skip(text, at + 1)

    def _take_inner_name(self, name: str, item: str, following: str, *, inside: bool) -> str:
        if not inside:
            raise _LineError(f"expected '=' after label name, found {quote(following)} after {quote(item)}")
        if name:
            raise _LineError(f"multiple metric names for metric {quote(name)}, got {quote(item)} as well; want one")
        if following not in ",}":
            raise _LineError(f"unexpected end of metric name {quote(item)}, found {quote(following)}; want , or }}")
        self._check_metric_name(item)
        return item

    def _read_name(self, text: str, at: int, pattern: re.Pattern[str]) -> tuple[str, int]:
        """Read a bare or quoted name; an empty name means that none stands there."""
        if text[at] == '"':
            name, at = _read_quoted(text, at, "metric name" if pattern is METRIC_NAME else "label name")
            return name, at
        match = pattern.match(text, at)
        return ("", at) if match is None else (match[0], match.end())

    def _check_metric_name(self, name: str) -> None:
        if not is_utf8(name) or not (self._utf8_names or METRIC_NAME.fullmatch(name)):
            raise _LineError(f"invalid metric name {quote(name)}; want letters, digits, _ and :, no digit first")

    def _check_label_name(self, name: str) -> None:
        if name == "__name__":
            raise _LineError('label name "__name__" is reserved; write the metric name before the labels')
        if not is_utf8(name) or not (self._utf8_names or LABEL_NAME.fullmatch(name)):
            raise _LineError(f"invalid label name {quote(name)}; want letters, digits and _, no digit first")

    def _resolve(self, name: str) -> tuple[_Draft, str]:
        """Find or create the family of a name, and the suffix by which it joined a summary or histogram."""
        found = self._resolved.get(name)
        if found is not None:
            return found
        for suffix in ("_count", "_sum", "_bucket"):
            owner = self.families.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
            if owner is not None and owner.type is not None and suffix in _SUFFIXES.get(owner.type, ()):
                self._resolved[name] = owner, suffix
                return owner, suffix
        draft = self.families[name] = _Draft(name)
        self._resolved[name] = draft, ""
        return draft, ""

    def _add(self, draft: _Draft, suffix: str, sample: Sample) -> None:
        """Add a sample to its family, or drop it where Go does so without an error."""
        bound_label = _BOUND_LABEL.get(draft.type or "untyped")
        if bound_label is None:
            draft.samples.append(sample)
            return
        bound = math.nan
        for label, text in sample.labels:
            if label == bound_label:
                bound = _bound(text, label)
        if suffix in ("_count", "_sum"):
            # Go keeps the bound label out of the series' own labels.
            sample = replace(sample, labels=tuple(pair for pair in sample.labels if pair[0] != bound_label))
        elif math.isnan(bound):
            return
        elif bound_label == "le" and not suffix:
            # Go reads `x{le=...}` as a bucket of histogram x.
            sample = replace(sample, name=draft.name + "_bucket")
        if sample.value < 0 and bound_label == "le" and suffix != "_sum":
            what = "count" if suffix == "_count" else "bucket population"
            raise _LineError(f"negative {what} for histogram {quote(draft.name)}, got {sample.value}; want 0 or more")
        draft.samples.append(sample)


def _skip(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return at if match is None else match.end()


def _word(text: str, at: int) -> str:
    match = _WORD.match(text, at)
    return "" if match is None else match[0]


def _unescape(text: str) -> str:
    try:
        return unescape(text)
    except ValueError as error:
        raise _LineError(f'{error}; want \\\\, \\n or \\"') from error


def _read_quoted(text: str, at: int, what: str) -> tuple[str, int]:
    match = QUOTED.match(text, at)
    if match is None:
        _unescape(text[at + 1 : -1])
        raise _LineError(f"{what} {quote(text[at + 1 : -1])} contains unescaped new-line; write it as \\n or close it")
    return _unescape(match[1]), match.end()


def _read_label_value(text: str, at: int) -> tuple[str, int]:
    """Read a quoted label value; the position given back is past the blanks after it."""
    if text[at] != '"':
        raise _LineError(f"expected '\"' at start of label value, found {quote(text[at])}")
    value, at = _read_quoted(text, at, "label value")
    if not is_utf8(value):
        raise _LineError(f"invalid label value {quote(value)}; want UTF-8")
    return value, _skip(text, at)


def _unique_labels(labels: list[tuple[str, str]], draft: _Draft) -> Labels:
    """Refuse duplicate names, save for the bound label, of which Go takes the last."""
    bound_label = _BOUND_LABEL.get(draft.type or "untyped")
    unique: dict[str, str] = {}
    for label, value in labels:
        if label == bound_label:
            _bound(value, label)
        elif label in unique:
            raise _LineError(f"duplicate label names for metric {quote(draft.name)}, got {quote(label)} twice")
        unique[label] = value
    return tuple(unique.items())


def _bound(text: str, label: str) -> float:
    try:
        return parse_go_float(text)
    except ValueError as error:
        raise _LineError(f"expected float as value for '{label}' label, got {quote(text)}") from error


def _value(text: str) -> float:
    try:
        return parse_go_float(text)
    except ValueError as error:
        raise _LineError(f"expected float as value, got {quote(text)}") from error


def _read_value(text: str, at: int) -> tuple[float, int | None]:
    word = _word(text, at)
    value = _value(word)
    at += len(word)
    if text[at] == "\n":
        return value, None
    at = _skip(text, at)
    word = _word(text, at)
    match = _INTEGER.fullmatch(word)
    timestamp_ms = int(match[1] + match[2]) if match else None
    if timestamp_ms is None or not _MIN_INT64 <= timestamp_ms <= _MAX_INT64:
        raise _LineError(
            f"expected integer as timestamp, got {quote(word)}; want ms since the epoch, or no blank after the value"
        )
    rest = text[at + len(word) : -1]
    if rest:
        raise _LineError(f"spurious string after timestamp: {quote(rest)}; end the line after the timestamp")
    return value, timestamp_ms
