"""Reads the pushed series off a server's GET /metrics, in a form in which two servers can be compared.

Its small text reader is deliberately not the product's own, which is under test. Sending requests that change
something does not belong here.
"""

import http.client
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]
"""Metric name, and labels sorted by name without those of empty value (which equal absent labels)."""
PushedSeries = dict[SeriesKey, str]
"""Value of each series as Python spells that float, so that NaN equals NaN; "1.0 and 2.0" if it is shown twice."""

_OWN_METRICS = ("pushgateway_", "go_", "process_", "pushbridge_", "python_", "promhttp_")
_CLOCK_METRICS = ("push_time_seconds", "push_failure_time_seconds")
_FLOAT_LABELS = ("le", "quantile")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_ESCAPES = {"\\n": "\n", "\\\\": "\\", '\\"': '"'}


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two readings of one server."""

    written: PushedSeries
    """New series, and series with another value than before."""
    gone: frozenset[SeriesKey]


def pushed_series(url: str) -> PushedSeries:
    """Fetch `url`/metrics and return what was pushed, without the server's own metrics.

    A push time of 0 stays "0.0" and any other becomes "1.0": two servers never agree on the clock.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain;version=0.0.4"})
        response = connection.getresponse()
        text = response.read().decode(errors="backslashreplace")
    finally:
        connection.close()
    if response.status != http.client.OK:
        message = f"{url}/metrics: got status {response.status}, want 200: {text[:500]}"
        raise ValueError(message)
    return read_series(text)


def read_series(text: str) -> PushedSeries:
    """Return the series of exposition `text`; raises ValueError for a line that is not well formed."""
    series: PushedSeries = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line.startswith("#"):
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            raise ValueError(f"line {number}: got {line!r}, want a sample")
        name, labels, value = sample.group(1), sample.group(2) or "", float(sample.group(3))
        if name.startswith(_OWN_METRICS):
            continue
        key = (name, _labels(labels, number))
        # Go prints negative zero as 0.
        spelled = repr(float(value != 0)) if name in _CLOCK_METRICS else repr(value + 0.0)
        series[key] = f"{series[key]} and {spelled}" if key in series else spelled
    return series


def change(before: PushedSeries, after: PushedSeries) -> Change:
    """Return what `after` adds, alters and lacks compared with `before`."""
    return Change({k: v for k, v in after.items() if before.get(k) != v}, frozenset(before.keys() - after.keys()))


def _labels(text: str, number: int) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            raise ValueError(f'line {number}: got labels {text!r}, want name="value" at offset {position}')
        name, raw = match.groups()
        value = re.sub(r"\\.", lambda escape: _ESCAPES[escape.group()], raw)
        if name in _FLOAT_LABELS:
            value = _float_spelling(value)
        if value:
            pairs.append((name, value))
        position = match.end()
    return tuple(sorted(pairs))


def _float_spelling(value: str) -> str:
    try:
        return repr(float(value))
    except ValueError:
        return value
