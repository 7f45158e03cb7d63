import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as v1
from bridge._pb import remote_write_v2_pb2 as v2
from bridge.model import Metadata
from bridge.wire import remote_write_v2
from bridge.wire.remote_write import STALE_NAN, encode_point, label_bytes
from bridge.wire.remote_write_v2 import Describe, Encoder
from tests.made import encode_series
from tests.wire.test_remote_write import LABELS, TEXT, TIMESTAMPS

NOW_MS = 1_700_000_000_000
TYPES = {
    "untyped": 0,
    "counter": 1,
    "gauge": 2,
    "histogram": 3,
    "gaugehistogram": 4,
    "summary": 5,
    "info": 6,
    "stateset": 7,
}
KNOWN = {
    "jobs_total": Metadata("counter", "Jobs."),
    "x_bucket": Metadata("histogram", "An x.", "seconds"),
    "x_count": Metadata("histogram", "An x.", "seconds"),
    "q": Metadata("summary", "A q."),
    "x": Metadata("histogram", "An x.", "seconds"),
    "info": Metadata("info", "Söme\nhelp."),
}


def describe(name: str) -> Metadata:
    return KNOWN.get(name, Metadata())


def encode(body: bytes, describe: Describe) -> bytes:
    """Write a request the first time, and a second time with what is remembered of the first: it is the same."""
    encoder = Encoder(describe)
    first = encoder.encode(body)
    assert encoder.encode(body) == first
    return first


def double(value: float) -> bytes:
    """Bits of a value, so that NaNs compare."""
    return struct.pack("<d", value)


@dataclass(frozen=True)
class Read:
    """A series as a receiver of either version reads it."""

    labels: tuple[tuple[str, str], ...]
    samples: tuple[tuple[bytes, int], ...]
    exemplars: tuple[tuple[tuple[tuple[str, str], ...], bytes, int], ...]
    histograms: tuple[bytes, ...]


def read_v1(body: bytes) -> list[Read]:
    """Read a request of 1.0; a series with samples and histograms is two."""
    found: list[Read] = []
    for series in v1.WriteRequest.FromString(body).timeseries:
        labels = tuple((label.name, label.value) for label in series.labels)
        samples = tuple((double(sample.value), sample.timestamp) for sample in series.samples)
        exemplars = tuple(
            (tuple((label.name, label.value) for label in one.labels), double(one.value), one.timestamp)
            for one in series.exemplars
        )
        histograms = tuple(one.SerializeToString(deterministic=True) for one in series.histograms)
        if samples and histograms:
            found += [Read(labels, samples, exemplars, ()), Read(labels, (), (), histograms)]
        else:
            found.append(Read(labels, samples, exemplars, histograms))
    return found


def read_v2(body: bytes) -> tuple[list[Read], v2.Request]:
    """Read a request of 2.0, and hold it to the rules for symbols and references."""
    request = v2.Request.FromString(body)
    assert request.symbols[0] == ""
    assert len(set(request.symbols)) == len(request.symbols)

    def labels(refs: Sequence[int]) -> tuple[tuple[str, str], ...]:
        assert len(refs) % 2 == 0
        strings = [request.symbols[ref] for ref in refs]
        return tuple(zip(strings[::2], strings[1::2], strict=True))

    found = [
        Read(
            labels(series.labels_refs),
            tuple((double(sample.value), sample.timestamp) for sample in series.samples),
            tuple((labels(one.labels_refs), double(one.value), one.timestamp) for one in series.exemplars),
            tuple(one.SerializeToString(deterministic=True) for one in series.histograms),
        )
        for series in request.timeseries
    ]
    for series in request.timeseries:
        assert bool(series.samples) != bool(series.histograms)
        assert series.HasField("metadata")
        assert max(series.metadata.help_ref, series.metadata.unit_ref) < len(request.symbols)
    return found, request


def field(series: v1.TimeSeries) -> bytes:
    """Write a series of any form."""
    return v1.WriteRequest(timeseries=[series]).SerializeToString(deterministic=True)


COUNTS = st.integers(0, 2**64 - 1)
SPANS = st.lists(st.builds(v1.BucketSpan, offset=st.integers(-(2**31), 2**31 - 1), length=st.integers(0, 2**32 - 1)))
HISTOGRAMS = st.builds(
    v1.Histogram,
    count_int=COUNTS,
    sum=st.floats(),
    schema=st.integers(-53, 8),
    zero_threshold=st.floats(),
    zero_count_int=COUNTS,
    negative_spans=SPANS,
    negative_deltas=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    positive_spans=SPANS,
    positive_deltas=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    positive_counts=st.lists(st.floats(), max_size=4),
    reset_hint=st.sampled_from(list(v1.Histogram.ResetHint.values())),
    timestamp=TIMESTAMPS,
    custom_values=st.lists(st.floats(), max_size=4),
)


def pb_labels(labels: Sequence[tuple[str, str]]) -> list[v1.Label]:
    """Sorted, without empty values, as every row has them."""
    kept = sorted((pair for pair in labels if pair[1]), key=lambda pair: pair[0].encode())
    return [v1.Label(name=name, value=value) for name, value in kept]


PB_LABELS = LABELS.map(pb_labels)
EXEMPLARS = st.builds(v1.Exemplar, labels=PB_LABELS, value=st.floats(), timestamp=TIMESTAMPS)
SAMPLES = st.builds(v1.Sample, value=st.floats(), timestamp=TIMESTAMPS)
SERIES = st.builds(
    v1.TimeSeries,
    labels=PB_LABELS,
    samples=st.lists(SAMPLES, min_size=1, max_size=2),
    exemplars=st.lists(EXEMPLARS, max_size=2),
    histograms=st.lists(HISTOGRAMS, max_size=2),
) | st.builds(v1.TimeSeries, labels=PB_LABELS, histograms=st.lists(HISTOGRAMS, min_size=1, max_size=2))
PLAIN = st.builds(encode_series, LABELS, st.floats(), st.sampled_from([NOW_MS, NOW_MS + 1]) | TIMESTAMPS)
BODIES = st.lists(PLAIN | SERIES.map(field), max_size=8).flatmap(
    lambda parts: st.lists(st.sampled_from(parts), max_size=12) if parts else st.just([])
)


@given(BODIES)
@example([encode_series([("__name__", "n" * size), ("a", "v" * size)], 1.0, NOW_MS) for size in (100, 120, 9000, 100)])
@example([encode_series([], 1.0, NOW_MS)] * 2)
@example([encode_series([("__name__", f"n{at}")], 1.0, NOW_MS) for at in range(5000)])
def test_both_versions_say_the_same(parts: list[bytes]) -> None:
    """Labels, values, times, exemplars and histograms are those of 1.0, in the same order, also where series repeat."""
    body = b"".join(parts)
    found, _ = read_v2(encode(body, describe))
    assert found == read_v1(body)


@given(st.sampled_from(list(TYPES)), TEXT, TEXT)
def test_metadata_of_any_text(kind: str, text: str, unit: str) -> None:
    """Type, help and unit arrive with each series, as references."""
    body = encode_series([("__name__", "n"), ("a", "b")], 1.0, NOW_MS) * 2
    _, request = read_v2(encode(body, lambda _: Metadata(kind, text, unit)))  # type: ignore[arg-type]
    for series in request.timeseries:
        about = series.metadata
        assert about.type == TYPES[kind]
        assert (request.symbols[about.help_ref], request.symbols[about.unit_ref]) == (text, unit)


def test_metadata_is_asked_by_metric_name() -> None:
    """Each series is described by its `__name__`, wherever that stands among its labels; one without a name is not."""
    names = ["info", "unknown", "x_bucket"]
    body = b"".join(encode_series([("__name__", name), ("A", "1"), ("z", "1")], 1.0, NOW_MS) for name in names)
    body += encode_series([("a", "1")], 1.0, NOW_MS)
    _, request = read_v2(encode(body, describe))
    found = [
        (series.metadata.type, request.symbols[series.metadata.help_ref], request.symbols[series.metadata.unit_ref])
        for series in request.timeseries
    ]
    assert found == [(6, "Söme\nhelp.", ""), (0, "", ""), (3, "An x.", "seconds"), (0, "", "")]


def test_symbols_stand_first_and_in_ascending_order() -> None:
    """All symbols come before the first series: one receiver decodes in one pass."""
    body = b"".join(encode_series([("__name__", f"n{at}")], 1.0, NOW_MS) for at in range(3))
    out = encode(body, describe)
    tags = []
    position = 0
    while position < len(out):
        tags.append(out[position])
        position += 2 + out[position + 1]
    assert tags == [0x22] * 5 + [0x2A] * 3


def test_a_version_1_reader_sees_an_empty_request() -> None:
    """Nothing of the request is a field of 1.0, which is how old receivers are found out."""
    message = v1.WriteRequest.FromString(encode(encode_series([("__name__", "n")], 1.0, NOW_MS), describe))
    assert not message.timeseries
    assert not message.metadata


def test_markers_keep_their_bits() -> None:
    """A staleness marker is the same eight bytes in 2.0, and the ordinary NaN is not one."""
    labels = [("__name__", "n")]
    body = encode_point(label_bytes(labels), STALE_NAN, NOW_MS) + encode_series(labels, math.nan, NOW_MS + 1)
    found, _ = read_v2(encode(body, describe))
    assert [read.samples[0][0] for read in found] == [STALE_NAN, bytes.fromhex("010000000000f87f")]


def starts(*series: tuple[list[tuple[str, str]], float, int]) -> list[int]:
    """Encode and give the start times."""
    _, request = read_v2(encode(b"".join(encode_series(*one) for one in series), describe))
    return [one.samples[0].start_timestamp for one in request.timeseries]


def test_start_times_come_from_created_series() -> None:
    """Counters, and all members of histograms and summaries, get the start that `_created` beside them tells."""
    job = ("job", "j")
    assert starts(
        ([("__name__", "jobs_total"), job], 5.0, NOW_MS),
        ([("__name__", "jobs_created"), job], 1_600_000_000.5, NOW_MS),
        ([("__name__", "x_bucket"), job, ("le", "1.0")], 1.0, NOW_MS),
        ([("__name__", "x_count"), job], 1.0, NOW_MS),
        ([("__name__", "x_created"), job], 1_600_000_001.0, NOW_MS),
        ([("__name__", "q"), job, ("quantile", "0.5")], 1.0, NOW_MS),
        ([("__name__", "q_created"), job], 1_600_000_002.0, NOW_MS),
    ) == [1_600_000_000_500, 0, 1_600_000_001_000, 1_600_000_001_000, 0, 1_600_000_002_000, 0]


@pytest.mark.parametrize(
    ("name", "labels", "created", "at_ms"),
    [
        ("jobs_total", [("job", "other")], 1_600_000_000.0, NOW_MS),
        ("jobs_total", [("job", "j")], 1_600_000_000.0, NOW_MS + 1),
        ("jobs_total", [("job", "j")], NOW_MS / 1000 + 1, NOW_MS),
        ("jobs_total", [("job", "j")], 0.0, NOW_MS),
        ("jobs_total", [("job", "j")], math.nan, NOW_MS),
        ("gauge", [("job", "j")], 1_600_000_000.0, NOW_MS),
    ],
)
def test_no_start_time_without_proof(name: str, labels: list[tuple[str, str]], created: float, at_ms: int) -> None:
    """Another series, another push, a time that is none or in the future, and a gauge: no start time."""
    family = name.removesuffix("_total")
    assert starts(
        ([("__name__", name), *labels], 5.0, at_ms),
        ([("__name__", f"{family}_created"), ("job", "j")], created, NOW_MS),
    ) == [0, 0]


def test_each_push_has_its_own_start_time() -> None:
    """A job that started anew between two pushes of a request gives both starts."""
    series = [("__name__", "jobs_total")], [("__name__", "jobs_created")]
    assert starts(
        (series[0], 5.0, NOW_MS),
        (series[1], 1_600_000_000.0, NOW_MS),
        (series[0], 1.0, NOW_MS + 1),
        (series[1], 1_600_000_009.0, NOW_MS + 1),
    ) == [1_600_000_000_000, 0, 1_600_000_009_000, 0]


def test_start_time_of_a_native_histogram() -> None:
    """It stands in the histogram itself."""
    histogram = v1.Histogram(count_int=1, sum=1.0, timestamp=NOW_MS)
    body = field(v1.TimeSeries(labels=[v1.Label(name="__name__", value="x")], histograms=[histogram]))
    body += encode_series([("__name__", "x_created")], 1_600_000_000.0, NOW_MS)
    _, request = read_v2(encode(body, describe))
    assert request.timeseries[0].histograms[0].start_timestamp == 1_600_000_000_000


def test_every_cut_is_refused() -> None:
    """A body that ends inside a series, plain or with an exemplar, is a ValueError."""
    exemplar = v1.Exemplar(labels=[v1.Label(name="t", value="1")], value=1.0, timestamp=NOW_MS)
    first = encode_series([("__name__", "a" * 200)], 1.0, NOW_MS)
    body = first + field(v1.TimeSeries(samples=[v1.Sample(value=1.0, timestamp=1)], exemplars=[exemplar]))
    for end in range(1, len(body)):
        if end != len(first):
            with pytest.raises(ValueError, match="byte"):
                encode(body[:end], describe)


@given(st.binary(max_size=100))
def test_any_bytes_give_a_request_or_a_value_error(data: bytes) -> None:
    """Whatever the disk made of a row, it becomes a request or the one documented error."""
    try:
        encode(data, describe)
    except ValueError:
        return


def test_what_is_remembered_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many series that come once are forgotten again, and what is written stays right."""
    monkeypatch.setattr(remote_write_v2, "MOST_REMEMBERED", 3)
    encoder = Encoder(describe)
    for start in range(0, 30, 5):
        body = b"".join(encode_series([("__name__", f"n{at}")], 1.0, NOW_MS) for at in range(start, start + 5))
        assert read_v2(encoder.encode(body))[0] == read_v1(body)
        assert len(encoder._labels) <= 3
