"""The sender cases of Prometheus' compliance suites, ported: names of functions and cases are those of the suites.

protocol.md sections 2.3 (remote write 2.0, here for both versions where it makes sense) and 2.4 (the older one of 1.0).
The suites look at the last request; here every request of the run has to be right, and there has to be one. Not
ported: what belongs to a scraper (Up, Invalid, HonorLabels), and what a version 2 case only forbids version 1.
"""

import math
import random
import re
import struct
import time
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest
import snappy

from tests.blackbox import delimited
from tests.blackbox.compliance import MESSAGES, OPENMETRICS, PUSH_TIMES, Point, Run, Sent, Trace, sent_by
from tests.blackbox.load import metrics
from tests.blackbox.scripted_receiver import Request, ScriptedReceiver, Step
from tests.blackbox.servers import agent

NOW_MS = time.time_ns() // 1_000_000
STALE = bytes.fromhex("020000000000f07f")
METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
VALUES = {
    "float_value": "123.45",
    "integer_value": "42",
    "zero_value": "0",
    "negative_value": "-7.5",
    "positive_infinity": "+Inf",
    "negative_infinity": "-Inf",
    "nan_value": "NaN",
    "large_float": "1.797e308",
    "small_float": "2.2e-308",
    "scientific": "1.5e-7",
    "precision": "0.12345678901234568",
}
LABEL_VALUES = {
    "unicode": "Grüße 世界 🚀",
    "special": 'quote " backslash \\ newline \n tab \t brace { comma ,',
    "long": "v" * 10_000,
    "one": "1",
}
BODIES = {
    "sample_encoding": "".join(f"{name} {text}\n" for name, text in VALUES.items()),
    "timestamps": f"long_ago 1 1000000000000\nahead 2 {NOW_MS + 60_000}\nat_zero 3 0\nbefore_1970 4 -1000\n",
    "labels": "".join(
        'labelled{{kind="{}",text="{}"}} 1\n'.format(
            kind, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        )
        for kind, text in LABEL_VALUES.items()
    )
    + "many_labels{"
    + ",".join(f'label_{at:02}="{at}"' for at in range(27))
    + "} 1\n"
    + 'unsorted{zebra="1",Upper="2",_low="3",alpha="4"} 1\n'
    + 'empty{gone="",stays="1"} 1\n'
    + f"{'long_name_' * 20} 1\n"
    + "with:colons:inside 1\n",
    "symbols": "".join(f'shared{{method="{at % 5}",code="{at // 5}"}} {at}\n' for at in range(25)),
    "metadata": (
        "# HELP jobs_total Jobs that ended.\n# TYPE jobs_total counter\njobs_total 5\n"
        '# HELP heat Heat\\nin two lines, with \\\\ and "quotes" and ü.\n# TYPE heat gauge\nheat 36.6\n'
        "# TYPE bare gauge\nbare 1\nunknown 1\n"
        "# HELP took_seconds Time taken.\n# TYPE took_seconds histogram\n"
        'took_seconds_bucket{le="1"} 3\ntook_seconds_bucket{le="2"} 5\n'
        'took_seconds_bucket{le="+Inf"} 9007199254740993\n'
        "took_seconds_sum 7.5\ntook_seconds_count 9007199254740993\n"
        "# HELP lag Lag.\n# TYPE lag summary\n"
        'lag{quantile="0.5"} 0.1\nlag{quantile="0.99"} 0.9\nlag_sum 17\nlag_count 30\n'
    ),
    "empty_scrape": "",
    "robustness": "".join(f'robust{{at="{at}"}} {at}\n' for at in range(60)),
    "batching": "".join(f'batched{{at="{at}",half="{at % 2}"}} {at}\n' for at in range(12_000)),
    "repeated_labels": 'repeated{a="1",a="2"} 1\n',
    "name_label": '{a="1"} 1\n',
}
STARTED = (
    "# HELP started Jobs that began.\n# TYPE started counter\n"
    'started_total{kind="a"} 5\nstarted_created{kind="a"} 1600000000.5\n'
    "# HELP rest_seconds Rest.\n# TYPE rest_seconds gauge\n# UNIT rest_seconds seconds\nrest_seconds 1\n# EOF\n"
)
TRACED = (
    "# TYPE traced counter\n"
    'traced_total 5 # {trace_id="4bf92f35",span_id="00f067aa",custom="ü"} 3.5 1600000000.25\n'
    "# TYPE spent_seconds histogram\n"
    'spent_seconds_bucket{le="1.0"} 1 # {trace_id="a"} 0.5\n'
    'spent_seconds_bucket{le="+Inf"} 2 # {trace_id="b"} 7\n'
    "spent_seconds_sum 7.5\nspent_seconds_count 2\n# EOF\n"
)
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
NATIVE = delimited.family(
    "native",
    delimited.HISTOGRAM,
    delimited.metric(delimited.block(7, delimited.native(6, 1.5, -2, 1, 1, 1))),
    help_text="Native.",
) + delimited.family(
    "custom",
    delimited.HISTOGRAM,
    delimited.metric(
        delimited.block(7, delimited.native(3, 1.5, 0, 1, 1, schema=-53) + delimited.classic((0.5, 1), (math.inf, 3)))
    ),
)
DELAYS = 20


def quiet_interval_s() -> int:
    """An interval whose next point is far: a repeat would take the step that was meant for a push."""
    now_s = int(time.time())
    return max(range(150, 299), key=lambda interval_s: interval_s - now_s % interval_s)


def target(receiver: ScriptedReceiver, version: str) -> str:
    """A configuration with the receiver as its only target, which waits as briefly as it may.

    What is refused is dropped, as the suites want it: the halves of a refused request are new requests to us.
    """
    return (
        f"push: {{max_label_value_length: 16384, hold_interval: {quiet_interval_s()}s}}\n"
        f"remote_write: [{{url: '{receiver.url}', name: target, protobuf_message: {MESSAGES[version]},"
        " send_exemplars: true, send_native_histograms: true, on_rejected: drop, remote_timeout: 2s,"
        " queue_config: {min_backoff: 30ms, max_backoff: 300ms}}]\n"
    )


@pytest.fixture(scope="module", params=list(MESSAGES))
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """What an agent sent of all the bodies, while its receiver answered at random speed."""
    version: str = request.param
    delays = [Step(delay_s=random.uniform(0, 0.2)) for _ in range(DELAYS)]
    with ScriptedReceiver(*delays) as receiver:
        with agent(tmp_path_factory.mktemp("agent"), config=target(receiver, version)) as server:
            run = Run(version, receiver, server)
            statuses = {case: run.push(case, body) for case, body in BODIES.items()}
            statuses["start_timestamp"] = run.push("start_timestamp", STARTED, OPENMETRICS)
            statuses["exemplars"] = run.push("exemplars", TRACED, OPENMETRICS)
            statuses["native"] = run.push("native", NATIVE, PROTOBUF)
            for number in range(30):
                body = "".join(f'ordered{{at="{at}"}} {number}\n' for at in range(100))
                statuses["sample_ordering"] = run.push("sample_ordering", body)
            statuses["stale_marker"] = run.push("stale_marker", "ends 1\n")
            run.push("stale_marker", "", method="DELETE")
            account = run.settle()
        assert account.dropped == {}
        requests = tuple(receiver.requests())
    assert len(requests) > 1
    arrived = [one for request in requests for one in sent_by(request)]
    assert sum(len(one.points) + len(one.histograms) for one in arrived) >= account.accepted
    return Trace(version, requests, statuses)


def values(found: list[Sent]) -> list[float]:
    """The value of each, which has one."""
    return [one.points[0].value for one in found]


def header(request: Request, name: str) -> str:
    """A header of a request, which has to be there."""
    return request.headers[name.lower()]


PROTOCOL: dict[str, Callable[[Request, str], bool]] = {
    "content_type_protobuf": lambda request, _: header(request, "Content-Type").startswith("application/x-protobuf"),
    "content_type_with_proto_param": lambda request, version: (
        (";proto=io.prometheus.write.v2.Request" in header(request, "Content-Type")) is (version == "2.0")
    ),
    "content_encoding_snappy": lambda request, _: header(request, "Content-Encoding") == "snappy",
    "version_header_present": lambda request, _: "x-prometheus-remote-write-version" in request.headers,
    "version_header_value": lambda request, version: (
        header(request, "X-Prometheus-Remote-Write-Version") == {"1.0": "0.1.0", "2.0": "2.0.0"}[version]
    ),
    "user_agent_present": lambda request, _: header(request, "User-Agent").startswith("pushbridge/"),
    "snappy_block_format": lambda request, _: (
        not request.body.startswith(b"\xff\x06\x00\x00sNaPpY") and bool(snappy.decompress(request.body))
    ),
    "protobuf_parseable": lambda request, _: request.message is not None and bool(request.message.timeseries),
    "http_method_post": lambda request, _: request.head.startswith("POST /api/v1/write HTTP/1.1\r\n"),
}


@pytest.mark.parametrize("case", PROTOCOL)
def test_protocol_compliance(trace: Trace, case: str) -> None:
    """TestProtocolCompliance, TestHTTPMethod, Headers: each request has these headers and this form."""
    for request in trace.requests:
        assert PROTOCOL[case](request, trace.version), request.head


@pytest.mark.parametrize("case", VALUES)
def test_sample_encoding(trace: Trace, case: str) -> None:
    """TestSampleEncoding and special_float_combinations: every value arrives bit by bit, the ordinary NaN's for NaN."""
    (point,) = trace.one("sample_encoding", case).points
    wanted = bytes.fromhex("010000000000f87f") if case == "nan_value" else struct.pack("<d", float(VALUES[case]))
    assert point.bits == wanted


def test_sample_encoding_timestamps(trace: Trace) -> None:
    """timestamp_milliseconds_format and timestamp_recent: samples have the time of their push."""
    found = trace.of("sample_encoding")
    for point in chain.from_iterable(one.points for one in found):
        assert 1e12 < point.timestamp_ms < 1e16
        assert abs(point.timestamp_ms - time.time() * 1000) < 5 * 60_000


def test_job_instance_labels_present(trace: Trace) -> None:
    """job_instance_labels_present, JobLabel, InstanceLabel: every series carries the labels of its group."""
    for one in trace.series:
        assert one.label("instance")
        assert one.label("job") == ("pushbridge" if one.name.startswith("pushbridge_") else "test")


def timelines(trace: Trace) -> Iterator[list[Point]]:
    """All points of each series, in order of arrival."""
    found: dict[tuple[tuple[str, str], ...], list[Point]] = {}
    for one in trace.series:
        found.setdefault(one.labels, []).extend(one.points)
    yield from found.values()


def test_sample_ordering(trace: Trace) -> None:
    """TestSampleOrdering, Ordering and Timestamp: timestamps of a series rise, across requests and a slow receiver."""
    lines = list(timelines(trace))
    assert max(map(len, lines)) >= 30
    for line in lines:
        for before, after in pairwise(line):
            assert before.timestamp_ms < after.timestamp_ms


def test_timestamp_encoding(trace: Trace) -> None:
    """TestTimestampEncoding, zero_timestamp, future_timestamp: explicit ones arrive as they are."""
    wanted = {"long_ago": 10**12, "ahead": NOW_MS + 60_000, "at_zero": 0, "before_1970": -1000}
    assert {one.name: one.points[0].timestamp_ms for one in trace.of("timestamps")} == wanted


def test_start_timestamp(trace: Trace) -> None:
    """start_timestamp: a counter's start is told in 2.0, is before its sample, and no gauge has one."""
    started = trace.one("start_timestamp", "started_total").points[0]
    assert started.start_ms == (1_600_000_000_500 if trace.version == "2.0" else 0)
    assert started.start_ms <= started.timestamp_ms
    others = [one for one in trace.series if one.name != "started_total"]
    assert {point.start_ms for one in others for point in one.points} == {0}


LABELS: dict[str, Callable[[list[tuple[str, str]]], bool]] = {
    "lexicographic_ordering": lambda labels: labels == sorted(labels, key=lambda pair: pair[0].encode()),
    "metric_name_label_present": lambda labels: "__name__" in dict(labels),
    "metric_name_format_valid": lambda labels: METRIC_NAME.fullmatch(dict(labels)["__name__"]) is not None,
    "label_name_format_valid": lambda labels: all(LABEL_NAME.fullmatch(name) for name, _ in labels),
    "no_duplicate_label_names": lambda labels: len(dict(labels)) == len(labels),
    "label_names_not_empty": lambda labels: all(name for name, _ in labels),
    "empty_labels_dropped": lambda labels: all(value for _, value in labels),
    "reserved_label_prefix": lambda labels: all(name == "__name__" or name[:2] != "__" for name, _ in labels),
}


@pytest.mark.parametrize("case", LABELS)
def test_label_validation(trace: Trace, case: str) -> None:
    """TestLabelValidation, SortedLabels, EmptyLabels: the labels of every series keep the rule."""
    for one in trace.series:
        assert LABELS[case](list(one.labels)), one.labels


@pytest.mark.parametrize("kind", LABEL_VALUES)
def test_label_values(trace: Trace, kind: str) -> None:
    """unicode, special characters, huge_label_values: a value arrives as it was pushed."""
    assert [one.label("text") for one in trace.of("labels") if one.label("kind") == kind] == [LABEL_VALUES[kind]]


def test_label_extremes(trace: Trace) -> None:
    """Many labels, very_long_metric_name, metric_name_with_colons, label_values_may_be_empty."""
    many = trace.one("labels", "many_labels")
    assert {f"label_{at:02}": str(at) for at in range(27)}.items() <= dict(many.labels).items()
    assert {"long_name_" * 20, "with:colons:inside"} <= {one.name for one in trace.of("labels")}
    assert set(dict(trace.one("labels", "empty").labels)) == {"__name__", "instance", "job", "stays"}


@pytest.mark.parametrize("case", ["repeated_labels", "name_label"])
def test_invalid_series_do_not_arrive(trace: Trace, case: str) -> None:
    """RepeatedLabels, NameLabel: such a push is refused at once, and only its failure is told."""
    assert trace.statuses[case] == 400
    assert {one.name for one in trace.series if one.label("instance") == case} == set(PUSH_TIMES)


VERSION_2 = pytest.mark.parametrize("trace", ["2.0"], indirect=True)


def test_exemplar_encoding(trace: Trace) -> None:
    """TestExemplarEncoding: trace_id, span_id, custom labels, on counters and buckets, with value and time."""
    (traced,) = trace.one("exemplars", "traced_total").exemplars
    assert dict(traced.labels) == {"trace_id": "4bf92f35", "span_id": "00f067aa", "custom": "ü"}
    assert (traced.value, traced.timestamp_ms) == (3.5, 1_600_000_000_250)
    buckets = [one for one in trace.of("exemplars") if one.name == "spent_seconds_bucket"]
    assert [(one.exemplars[0].labels, one.exemplars[0].value) for one in buckets] == [
        ((("trace_id", "a"),), 0.5),
        ((("trace_id", "b"),), 7.0),
    ]
    for one in buckets:
        assert one.exemplars[0].timestamp_ms == one.points[0].timestamp_ms


def test_native_histogram_encoding(trace: Trace) -> None:
    """TestHistogramEncoding: count, sum, schema, time and buckets of a native histogram; custom ones only in 2.0."""
    if trace.version == "1.0":
        assert trace.statuses["native"] == 400
        return
    (found,) = trace.one("native", "native").histograms
    assert (found.count_int, found.sum, found.schema) == (6, 1.5, 3)
    assert [(span.offset, span.length) for span in found.positive_spans] == [(-2, 3)]
    assert list(found.positive_deltas) == [1, 1, 1]
    assert found.timestamp > 10**12
    assert (trace.one("native", "native").type, trace.one("native", "native").help) == (3, "Native.")
    (custom,) = trace.one("native", "custom").histograms
    assert (custom.schema, list(custom.custom_values)) == (-53, [0.5])


@VERSION_2
def test_symbol_table(trace: Trace) -> None:
    """TestSymbolTable: "" first, no string twice and none for nothing, references valid and in pairs."""
    for message in trace.messages():
        assert message.symbols[0] == ""
        assert len(set(message.symbols)) == len(message.symbols)
        used = {0}
        for series in message.timeseries:
            assert len(series.labels_refs) % 2 == 0
            used.update(series.labels_refs, (series.metadata.help_ref, series.metadata.unit_ref))
            for exemplar in series.exemplars:
                assert len(exemplar.labels_refs) % 2 == 0
                used.update(exemplar.labels_refs)
        assert used == set(range(len(message.symbols)))
    shared = {text for one in trace.of("symbols") for pair in one.labels for text in pair}
    assert len(shared) <= 30


FAMILIES = {
    "jobs_total": (1, "Jobs that ended."),
    "heat": (2, 'Heat\nin two lines, with \\ and "quotes" and ü.'),
    "bare": (2, ""),
    "unknown": (0, ""),
    "took_seconds_bucket": (3, "Time taken."),
    "took_seconds_sum": (3, "Time taken."),
    "took_seconds_count": (3, "Time taken."),
    "lag": (5, "Lag."),
    "lag_sum": (5, "Lag."),
    "lag_count": (5, "Lag."),
}


@VERSION_2
def test_metadata_encoding(trace: Trace) -> None:
    """TestMetadataEncoding: type and help of each family on all of its series, also of several lines or none."""
    found = trace.of("metadata")
    assert {one.name for one in found} == set(FAMILIES)
    for one in found:
        assert (one.type, one.help) == FAMILIES[one.name]
    assert trace.one("start_timestamp", "rest_seconds").unit == "seconds"
    assert trace.one("start_timestamp", "started_total").type == 1
    for one in trace.series:
        if one.name in PUSH_TIMES or one.name.startswith("pushbridge_"):
            assert (one.type, bool(one.help)) == (2, True)


def test_histogram_encoding(trace: Trace) -> None:
    """TestHistogramEncoding, Histogram: buckets, sum and count arrive in order, large counts as floats hold them."""
    found = [one for one in trace.of("metadata") if one.name.startswith("took_seconds")]
    assert [(one.name, one.label("le")) for one in found] == [
        ("took_seconds_bucket", "1.0"),
        ("took_seconds_bucket", "2.0"),
        ("took_seconds_bucket", "+Inf"),
        ("took_seconds_sum", ""),
        ("took_seconds_count", ""),
    ]
    assert values(found) == [3.0, 5.0, 2.0**53, 7.5, 2.0**53]


def test_no_mixed_with_samples(trace: Trace) -> None:
    """no_mixed_with_samples: every series has one sample or one histogram, never both and never none."""
    for one in trace.series:
        assert len(one.points) + len(one.histograms) == 1


def test_combined_features(trace: Trace) -> None:
    """TestCombinedFeatures, Counter, Gauge, Summary: all families of a push arrive complete, at one time."""
    found = trace.of("metadata")
    lag = [one for one in found if one.name.startswith("lag")]
    assert [(one.label("quantile"), one.points[0].value) for one in lag] == [
        ("0.5", 0.1),
        ("0.99", 0.9),
        ("", 17),
        ("", 30),
    ]
    assert values([one for one in found if one.name in {"jobs_total", "heat"}]) == [5.0, 36.6]
    assert len({one.points[0].timestamp_ms for one in found}) == 1


def test_edge_cases_empty_scrape(trace: Trace) -> None:
    """empty_scrape: a push of nothing is taken, and what arrives of it are its push times."""
    assert trace.statuses["empty_scrape"] == 200
    assert {one.name for one in trace.series if one.label("instance") == "empty_scrape"} == set(PUSH_TIMES)


def test_stale_marker(trace: Trace) -> None:
    """stale_marker, Staleness: a series that ends sends the marker's very bits, once, and nothing else sends them."""
    ends = [point for one in trace.of("stale_marker") for point in one.points]
    assert [point.bits for point in ends] == [struct.pack("<d", 1.0), STALE]
    markers = [one for one in trace.series if any(point.bits == STALE for point in one.points)]
    assert {one.name for one in markers} == {"ends", *PUSH_TIMES}
    assert {one.label("instance") for one in markers} == {"stale_marker"}


def test_robustness_under_load(trace: Trace) -> None:
    """TestRobustnessUnderLoad, many_timeseries: sixty series of one push, each with its own value."""
    assert {one.label("at"): one.points[0].value for one in trace.of("robustness")} == {
        str(at): float(at) for at in range(60)
    }


def test_batching_behavior(trace: Trace) -> None:
    """TestBatchingBehavior, high_cardinality: 12,000 series come in requests of 3 to 10,000, each exactly once."""
    sizes = [len(sent_by(request)) for request in trace.requests]
    assert min(sizes) >= 1
    assert max(sizes) <= 10_000
    holding = [sent_by(request) for request in trace.requests]
    assert min(len(some) for some in holding if any(one.name == "batched" for one in some)) >= 3
    found = trace.of("batching")
    assert sorted(values(found)) == list(range(12_000))


def test_version_1_has_nothing_of_version_2(trace: Trace) -> None:
    """TestRemoteWrite1Compatibility: no native histograms, no start timestamps, one version all the time."""
    assert {request.version for request in trace.requests} == {trace.version}
    if trace.version == "1.0":
        assert all(not one.histograms for one in trace.series)
        assert all(
            not math.isnan(point.start_ms) and point.start_ms == 0 for one in trace.series for point in one.points
        )


@pytest.fixture(scope="module", params=list(MESSAGES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """An agent and a receiver that answers as each test says."""
    version: str = request.param
    with (
        ScriptedReceiver() as receiver,
        agent(tmp_path_factory.mktemp("agent"), config=target(receiver, version)) as server,
    ):
        yield Run(version, receiver, server)


def answered(run: Run, case: str, *steps: Step) -> list[Request]:
    """Push one value to the group of a case, whose requests meet these steps; give them when all is settled."""
    run.settle()
    before = len(run.receiver.requests())
    run.receiver.add(*steps)
    assert run.push(case, f"{case} 1\n") == 200
    run.settle()
    found = [
        request for request in run.receiver.requests()[before:] if case.encode() in snappy.decompress(request.body)
    ]
    assert found
    return found


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422])
def test_no_retry(run: Run, status: int) -> None:
    """TestRetryBehavior no_retry_on_400 to 413, Retries400: what was refused never comes again."""
    (refused,) = answered(run, f"refused_{status}", Step(status, b"refused, said the receiver"))
    assert refused.step.status == status
    assert refused.version == run.version
    assert "refused, said the receiver" in run.server.log_tail()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 999])
def test_retry(run: Run, status: int) -> None:
    """TestRetryBehavior retry_on_429 to 504, Retries500, status 999: the same bytes come until they are taken."""
    first, second, third = answered(run, f"retried_{status}", Step(status), Step(status))
    assert first.body == second.body == third.body
    assert third.kept


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(run: Run, status: int) -> None:
    """429 with Retry-After 1: the repetition waits that long."""
    first, second = answered(run, f"after_{status}", Step(status, headers=("Retry-After: 1",)))
    assert first.body == second.body
    assert 1.0 <= second.at_s - first.at_s < 5.0


def test_backoff_behavior(run: Run) -> None:
    """TestBackoffBehavior: repetitions come at growing distances, never at once, and no further apart than is set."""
    found = answered(run, "backoff", *[Step(503)] * 7)
    gaps = [after.at_s - before.at_s for before, after in pairwise(found)]
    assert len(gaps) == 7
    assert min(gaps) >= 0.015
    # From 30 ms doubling to 300 ms, each between half of it and all of it; the rest is the machine's.
    for before, after in pairwise(gaps[:4]):
        assert after >= 0.8 * before - 0.02
    assert max(gaps) < 2.0


@pytest.mark.parametrize(
    ("case", "step"),
    [
        ("success_200", Step(200)),
        ("success_204", Step(204)),
        ("ignore_success_body", Step(200, b"error: nothing was written " * 1000)),
    ],
)
def test_response_processing(run: Run, case: str, step: Step) -> None:
    """TestResponseProcessing: any 2xx is a success, whatever its body says, and nothing comes again."""
    (only_one,) = answered(run, case, step)
    assert only_one.kept


@pytest.mark.parametrize(
    ("case", "step"),
    [
        ("malformed_reply", Step(raw=b"HTTP/1.1 what OK\r\n\r\n")),
        ("empty_reply", Step(raw=b"")),
        ("broken_connection", Step(resets_at=0.5)),
        ("huge_error_body", Step(500, b"x" * (1 << 20))),
        ("hanging_receiver", Step(delay_s=3.0)),
    ],
)
def test_error_handling(run: Run, case: str, step: Step) -> None:
    """TestErrorHandling, TestNetworkErrors: whatever a receiver does instead of an answer, its samples come again."""
    run.settle()
    before = len(run.receiver.requests())
    run.receiver.add(step)
    assert run.push(case, f"{case} 1\n") == 200
    run.settle()
    found = run.receiver.requests()[before:]
    assert len(found) >= 2
    assert any(request.kept and case.encode() in snappy.decompress(request.body) for request in found)


def test_partial_write(run: Run) -> None:
    """400 partial write: the receiver kept a part; what it refused is not sent again, and what follows is."""
    (refused,) = answered(run, "partial", Step(400, b"one of them is out of order", keeps=True))
    assert refused.kept
    (after,) = answered(run, "behind_partial")
    assert after.kept
    assert after.version == run.version


@pytest.mark.parametrize("target_name", ["http://nowhere.invalid/api/v1/write", "http://127.0.0.1:1/api/v1/write"])
def test_nobody_there(tmp_path: Path, target_name: str) -> None:
    """Connection refused, DNS failure: pushes are taken meanwhile, and wait."""
    with agent(tmp_path, f"--remote-write.url={target_name}") as server:
        run = Run("1.0", ScriptedReceiver(up=False), server)
        assert run.push("away", "away 1\n") == 200
        assert run.push("away", "away 2\n") == 200


@pytest.mark.parametrize("old", ["refuses", "ignores"])
def test_fallback_behavior(tmp_path: Path, old: str) -> None:
    """TestFallbackBehavior: 415, and 2xx without Written headers, lead to 1.0 at once and for good."""
    then = Step(version_2="refuses" if old == "refuses" else "ignores")
    with ScriptedReceiver(then=then) as receiver, agent(tmp_path, config=target(receiver, "2.0")) as server:
        run = Run("2.0", receiver, server)
        for number in range(5):
            assert run.push("fallback", f"fallback {number}\n") == 200
            account = run.settle()
        assert account.dropped == {}
        found = receiver.requests()
        assert [request.version for request in found].count("2.0") == 1
        assert found[0].version == "2.0"
        first, again = sent_by(found[0]), sent_by(found[1])
        assert [(one.labels, one.points) for one in first] == [(one.labels, one.points) for one in again]
        stored = [sample.value for sample in receiver.stored() if dict(sample.series)["__name__"] == "fallback"]
        assert stored == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert server.log_tail().count("remote_write_falls_back") == 1
        assert load_protocol(server.port) == {"1.0": 1.0, "2.0": 0.0}


def load_protocol(port: int) -> dict[str, float]:
    """The version that the agent says it speaks."""
    seen = metrics(port)
    return {version: seen[f'pushbridge_target_protocol{{target="target",version="{version}"}}'] for version in MESSAGES}


def test_no_fallback_on_2xx(tmp_path: Path) -> None:
    """TestNoFallbackOn2xx: a receiver that says what it wrote gets 2.0 for ever, and its words are added up."""
    with ScriptedReceiver() as receiver, agent(tmp_path, config=target(receiver, "2.0")) as server:
        run = Run("2.0", receiver, server)
        for number in range(5):
            assert run.push("stays", f"stays {number}\n") == 200
            account = run.settle()
        assert {request.version for request in receiver.requests()} == {"2.0"}
        assert load_protocol(server.port) == {"1.0": 0.0, "2.0": 1.0}
        said = metrics(server.port)['pushbridge_remote_write_written_total{target="target",type="samples"}']
        sent = [request for request in receiver.requests() if request.kept]
        assert said == sum(len(request.samples) for request in sent) >= account.accepted
