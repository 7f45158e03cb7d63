"""Reads OpenMetrics 1.0 text, strictly.

The rule for every function: the first error ends the parse, and names its line and the fix. Nothing is mended
or renamed here; comparison with earlier pushes must not live here. Source: OpenMetrics 1.0 specification.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Final

from bridge.errors import BadPushError
from bridge.exposition.lexing import LABEL_NAME, METRIC_NAME, QUOTED, is_utf8, parse_go_float, quote, unescape
from bridge.model import Exemplar, Family, Labels, MetricType, Sample

_Number = tuple[float, int | None]

_TYPES: Final[dict[str, MetricType]] = {
    "unknown": "untyped",
    "gauge": "gauge",
    "counter": "counter",
    "stateset": "stateset",
    "info": "info",
    "histogram": "histogram",
    "gaugehistogram": "gaugehistogram",
    "summary": "summary",
}
_SUFFIXES: Final[dict[MetricType, tuple[str, ...]]] = {
    "untyped": ("",),
    "gauge": ("",),
    "counter": ("_total", "_created"),
    "stateset": ("",),
    "info": ("_info",),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
    "summary": ("", "_count", "_sum", "_created"),
}
_NOT_NEGATIVE: Final = {"_total", "_bucket", "_count", "_gcount"}
_WITH_EXEMPLAR: Final = {("counter", "_total"), ("histogram", "_bucket"), ("gaugehistogram", "_bucket")}
_UNITLESS: Final = {"info", "stateset"}
_LONGEST_EXEMPLAR: Final = 128

_METADATA: Final = re.compile(r'# (TYPE|HELP|UNIT) ([a-zA-Z_:][a-zA-Z0-9_:]*|"[^"\\]*(?:\\.[^"\\]*)*") (.*)', re.DOTALL)
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def parse_openmetrics(body: bytes, *, utf8_names: bool = False) -> tuple[Family, ...]:
    """Read a whole body of OpenMetrics 1.0 text; the first error discards everything.

    A family has the name of its TYPE line, its samples keep their suffix. Timestamps, seconds in the body, are
    rounded to ms. `_created` samples stay ordinary samples of their family.
    Families without samples are left out. `utf8_names` allows quoted names outside the legacy character set.

    Raises `BadPushError` with reason `parse`, its text starting `OpenMetrics parsing error in line N:`.
    """
    parser = _Parser(utf8_names=utf8_names)
    try:
        parser.read_body(body)
    except _LineError as error:
        raise BadPushError("parse", f"OpenMetrics parsing error in line {parser.number}: {error}") from error
    return tuple(
        Family(draft.name, draft.type or "untyped", draft.help or "", tuple(draft.samples), unit=draft.unit or "")
        for draft in parser.families
        if draft.samples
    )


def _decode(raw: bytes, number: int) -> str:
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        raise _LineError(f"invalid UTF-8, got byte 0x{raw[error.start]:02x}; want UTF-8") from error
    if not line:
        raise _LineError("blank line; leave no line empty")
    if line.endswith("\r"):
        raise _LineError("the line ends in CR LF; end every line with LF alone")
    if number == 1 and line.startswith("\ufeff"):
        raise _LineError("the body starts with a byte order mark; leave it out")
    return line


class _LineError(Exception):
    """What is wrong with the line at hand, before the line number is put in front."""


@dataclass(slots=True)
class _Draft:
    """A family while its lines are read; None stands for a metadata line that has not come."""

    name: str
    type: MetricType | None = None
    help: str | None = None
    unit: str | None = None
    samples: list[Sample] = field(default_factory=list)
    closed: set[Labels] = field(default_factory=set)
    """Metrics (label sets less the bound label) whose samples have ended."""
    metric: Labels | None = None
    stamps: dict[tuple[str, Labels], int | None] = field(default_factory=dict)
    """Newest timestamp of each series of the metric at hand."""
    bounds: set[float] = field(default_factory=set)
    suffixes: set[str] = field(default_factory=set)


class _Parser:
    """The families seen so far; the last one is still open."""

    def __init__(self, *, utf8_names: bool) -> None:
        self.families: list[_Draft] = []
        self._utf8_names = utf8_names
        self.number = 0
        self._taken: dict[str, str] = {}

    def read_body(self, body: bytes) -> None:
        """Take all lines; `number` is that of the newest one, so that of the error if one is raised."""
        lines = body.removesuffix(b"\n").split(b"\n")
        self.number = 1
        for self.number, raw in enumerate(lines if body else [], 1):
            if raw == b"# EOF":
                break
            line = _decode(raw, self.number)
            if line.startswith("#"):
                self._read_metadata(line)
            else:
                self._read_sample(line)
        else:
            raise _LineError("data does not end with # EOF; write # EOF as the last line")
        self._close_family()
        if self.number < len(lines):
            self.number += 1
            raise _LineError("data after # EOF; nothing but one line feed may follow it")

    def _close_family(self) -> None:
        """End the open family: its last metric must be whole, its names are taken from now on."""
        if not self.families:
            return
        draft = self.families[-1]
        _close_metric(draft)
        for suffix in ("", *_SUFFIXES[draft.type or "untyped"]):
            self._taken.setdefault(draft.name + suffix, draft.name)

    def _read_metadata(self, line: str) -> None:
        match = _METADATA.fullmatch(line)
        if match is None:
            raise _LineError(
                f"invalid comment {quote(line)}; want # TYPE, # HELP or # UNIT, a metric name and a text, "
                "one blank between them"
            )
        keyword, name, text = match.groups()
        if name.startswith('"'):
            name = self._metric_name(unescape(name[1:-1], lenient=True))
        draft = self._family(name)
        if draft.samples:
            raise _LineError(f"{keyword} line for {quote(name)} after its samples; put it before the first one")
        if keyword == "TYPE":
            _once(draft.type, keyword, name)
            if text not in _TYPES:
                raise _LineError(f"unknown metric type {quote(text)}; want one of {', '.join(_TYPES)}")
            draft.type = _TYPES[text]
            self._refuse_clash(draft)
        elif keyword == "HELP":
            _once(draft.help, keyword, name)
            draft.help = unescape(text, lenient=True)
        else:
            _once(draft.unit, keyword, name)
            if text and not name.endswith("_" + text):
                raise _LineError(
                    f"unit {quote(text)} is not the suffix of {quote(name)}; want a name ending in _{text}"
                )
            draft.unit = text
        if draft.unit and draft.type in _UNITLESS:
            raise _LineError(f"unit {quote(draft.unit)} on {draft.type} {quote(name)}; leave UNIT out for this type")

    def _family(self, name: str) -> _Draft:
        """Give the open family if it has this name, else close it and open a new one."""
        if self.families and self.families[-1].name == name:
            return self.families[-1]
        self._close_family()
        owner = self._taken.get(name)
        if owner is not None:
            raise _LineError(f"name {quote(name)} belongs to family {quote(owner)}, which has ended; keep it together")
        self.families.append(_Draft(name))
        return self.families[-1]

    def _refuse_clash(self, draft: _Draft) -> None:
        for suffix in _SUFFIXES[draft.type or "untyped"]:
            owner = self._taken.get(draft.name + suffix)
            if owner is not None:
                raise _LineError(
                    f"{draft.type} {quote(draft.name)} needs name {quote(draft.name + suffix)}, "
                    f"taken by family {quote(owner)}; rename one"
                )

    def _owner(self, name: str) -> tuple[_Draft, str]:
        """Find the family of a sample name, and its suffix in it."""
        if self.families:
            draft = self.families[-1]
            suffix = name[len(draft.name) :]
            if name.startswith(draft.name) and suffix in _SUFFIXES[draft.type or "untyped"]:
                return draft, suffix
            if name == draft.name:
                want = ", ".join(name + suffix for suffix in _SUFFIXES[draft.type or "untyped"])
                raise _LineError(f"sample {quote(name)} does not fit {draft.type} {quote(name)}; want {want}")
        return self._family(name), ""

    def _read_sample(self, line: str) -> None:
        name, labels, at = self._read_series(line)
        draft, suffix = self._owner(name)
        head, mark, exemplar = line[at:].partition(" # ")
        value, timestamp_ms = _numbers(head)
        exemplars: tuple[Exemplar, ...] = ()
        if mark:
            if (draft.type or "untyped", suffix) not in _WITH_EXEMPLAR:
                raise _LineError(f"exemplar on {quote(name)}; want one on counter totals and histogram buckets only")
            exemplars = (self._read_exemplar(exemplar),)
        sample = Sample(name, labels, value, timestamp_ms, self.number, exemplars)
        bound = _check_sample(draft, suffix, sample)
        _enter_metric(draft, sample)
        if bound is not None:
            draft.bounds.add(bound)
        draft.suffixes.add(suffix)
        draft.samples.append(sample)

    def _read_series(self, line: str) -> tuple[str, Labels, int]:
        name, at = "", 0
        if not line.startswith("{"):
            match = METRIC_NAME.match(line)
            if match is None:
                raise _LineError(
                    f"invalid metric name, got {quote(line)}; want letters, digits, _ and :, no digit first"
                )
            name, at = match[0], match.end()
        if not line.startswith("{", at):
            return name, (), at
        inner, labels, at = self._read_labels(line, at, named=bool(name))
        if not name and not inner:
            raise _LineError("invalid metric name, got none; want a name before { or quoted as first item inside")
        return name or inner, labels, at

    def _read_labels(self, line: str, at: int, *, named: bool) -> tuple[str, Labels, int]:
        """Read from `{` to past `}`: a quoted metric name if allowed, and the labels."""
        metric_name = ""
        labels: dict[str, str] = {}
        at += 1
        if line.startswith("}", at):
            return metric_name, (), at + 1
        while True:
            item, at = _read_item(line, at)
            if line.startswith("=", at):
                value, at = _read_string(line, at + 1, "label value")
                self._check_label_name(item)
                if item in labels:
                    raise _LineError(f"duplicate label name {quote(item)}; keep one")
                labels[item] = value
            elif named or metric_name:
                raise _LineError(f"expected '=' after label name {quote(item)}, found {quote(line[at : at + 1])}")
            else:
                metric_name = self._metric_name(item)
            if line.startswith("}", at):
                return metric_name, tuple(labels.items()), at + 1
            if not line.startswith(",", at):
                raise _LineError(f"expected ',' or '}}' after {quote(item)}, found {quote(line[at : at + 1])}")
            at += 1

    def _metric_name(self, name: str) -> str:
        if not name or not is_utf8(name) or not (self._utf8_names or METRIC_NAME.fullmatch(name)):
            raise _LineError(f"invalid metric name {quote(name)}; want letters, digits, _ and :, no digit first")
        return name

    def _check_label_name(self, name: str) -> None:
        if name == "__name__":
            raise _LineError('label name "__name__" is reserved; write the metric name before the labels')
        if not name or not (self._utf8_names or LABEL_NAME.fullmatch(name)):
            raise _LineError(f"invalid label name {quote(name)}; want letters, digits and _, no digit first")

    def _read_exemplar(self, text: str) -> Exemplar:
        if not text.startswith("{"):
            raise _LineError(f"invalid exemplar {quote(text)}; want {{labels}} value [timestamp]")
        _, labels, at = self._read_labels(text, 0, named=True)
        length = sum(len(name) + len(value) for name, value in labels)
        if length > _LONGEST_EXEMPLAR:
            raise _LineError(f"exemplar labels have {length} characters; want at most {_LONGEST_EXEMPLAR}")
        return Exemplar(labels, *_numbers(text[at:]))


def _once(present: str | None, keyword: str, name: str) -> None:
    if present is not None:
        raise _LineError(f"second {keyword} line for {quote(name)}; keep one of them")


def _read_item(line: str, at: int) -> tuple[str, int]:
    if line.startswith('"', at):
        return _read_string(line, at, "name")
    match = _LABEL.match(line, at)
    if match is None:
        raise _LineError(f"invalid label name, found {quote(line[at : at + 1])}; want letters, digits and _, no blanks")
    if not line.startswith("=", match.end()):
        raise _LineError(f"expected '=' after label name {quote(match[0])}, found {quote(line[match.end() :][:1])}")
    return match[0], match.end()


def _read_string(line: str, at: int, what: str) -> tuple[str, int]:
    match = QUOTED.match(line, at)
    if match is None:
        raise _LineError(f"invalid {what}, got {quote(line[at:])}; want it in double quotes on one line")
    return unescape(match[1], lenient=True), match.end()


def _numbers(text: str) -> _Number:
    """Read ` value` or ` value timestamp`; seconds become ms."""
    blank, *words = text.split(" ")
    if blank or "" in words or not 1 <= len(words) <= len(("value", "timestamp")):
        raise _LineError(f"expected one blank, a value and at most a timestamp, got {quote(text)}")
    try:
        value = parse_go_float(words[0])
    except ValueError as error:
        raise _LineError(f"expected float as value, got {quote(words[0])}") from error
    if len(words) == 1:
        return value, None
    try:
        milliseconds = parse_go_float(words[1]) * 1000
    except ValueError as error:
        raise _LineError(f"expected seconds as timestamp, got {quote(words[1])}") from error
    if not -(2.0**63) <= milliseconds < 2.0**63:
        raise _LineError(f"timestamp {quote(words[1])} out of range; want finite seconds since the epoch")
    return value, round(milliseconds)


def _check_sample(draft: _Draft, suffix: str, sample: Sample) -> float | None:
    """Check value and labels against the type; give the bound of a bucket or quantile."""
    value, labels = sample.value, dict(sample.labels)
    if suffix in _NOT_NEGATIVE and not value >= 0:
        raise _LineError(f"{sample.name} is {value}; want neither a negative value nor NaN")
    if draft.type == "info" and value != 1:
        raise _LineError(f"info {sample.name} is {value}; want 1")
    if draft.type == "stateset":
        if draft.name not in labels:
            raise _LineError(f"stateset {sample.name} has no label {quote(draft.name)}; want the state in it")
        if value not in (0, 1):
            raise _LineError(f"stateset {sample.name} is {value}; want 0 or 1")
    label = "le" if suffix == "_bucket" else "quantile" if draft.type == "summary" and not suffix else None
    if label is None:
        return None
    text = labels.get(label, "")
    try:
        bound = parse_go_float(text)
    except ValueError as error:
        raise _LineError(f"expected float as value for '{label}' label, got {quote(text)}") from error
    if math.isnan(bound) or (label == "quantile" and not 0 <= bound <= 1):
        raise _LineError(f"label {label} is {quote(text)}; want {'0 to 1' if label == 'quantile' else 'a bound'}")
    return bound


def _enter_metric(draft: _Draft, sample: Sample) -> None:
    """Keep a metric's samples together, and a series' timestamps rising."""
    inner = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le", "stateset": draft.name}
    bound_label = inner.get(draft.type or "untyped")
    metric = tuple(sorted(pair for pair in sample.labels if pair[0] != bound_label))
    if metric != draft.metric:
        _close_metric(draft)
        if metric in draft.closed:
            raise _LineError(f"samples of one metric of {quote(draft.name)} are interleaved; keep them together")
        draft.metric = metric
    series = sample.name, tuple(sorted(sample.labels))
    if series in draft.stamps:
        before, now = draft.stamps[series], sample.timestamp_ms
        if before is None or now is None or now <= before:
            raise _LineError(f"sample {quote(sample.name)} given twice; want one, or rising timestamps")
    draft.stamps[series] = sample.timestamp_ms


def _close_metric(draft: _Draft) -> None:
    if draft.metric is None:
        return
    if draft.type == "counter" and "_total" not in draft.suffixes:
        raise _LineError(f"counter {quote(draft.name)} ends without a sample {draft.name}_total")
    if draft.type in ("histogram", "gaugehistogram") and math.inf not in draft.bounds:
        raise _LineError(f'histogram {quote(draft.name)} ends without a bucket le="+Inf"')
    draft.closed.add(draft.metric)
    draft.metric = None
    draft.stamps.clear()
    draft.bounds.clear()
    draft.suffixes.clear()
