"""Native histograms, exemplars and metadata on their whole way: into a real Prometheus, over restarts, to their end."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import pytest
import snappy

from bridge._pb.remote_write_v1_pb2 import MetricMetadata, WriteRequest
from tests.blackbox import delimited as pb
from tests.blackbox import load
from tests.blackbox.binaries import VERSIONS
from tests.blackbox.compliance import MESSAGES
from tests.blackbox.oracle_requests import OPENMETRICS, PROTOBUF, Headers, Request
from tests.blackbox.queries import account, fetch, poll
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.blackbox.servers import Server, agent, needs, prometheus
from tests.blackbox.test_oracle import send

pytestmark = pytest.mark.real

FEATURES = "--enable-feature=native-histograms,exemplar-storage"
CONFIG = """
push: {{hold_interval: 1s}}
web: {{expose_groups: true}}
remote_write:
  - url: "{url}/api/v1/write"
    name: all
    protobuf_message: {message}
    send_native_histograms: true
    send_exemplars: true
  - url: "{url}/api/v1/write"
    name: plain
    protobuf_message: {message}
    write_relabel_configs: [{{target_label: target, replacement: plain}}]
"""


def put(server: Server, job: str, body: bytes, headers: Headers = PROTOBUF) -> None:
    """Push in place of what the group has; it is taken."""
    status, text = send(Request("PUT", f"/metrics/job/{job}", body, headers), server)
    assert status == 200, text


def query(server: Server, text: str) -> list[dict[str, Any]]:
    """Result of an instant query."""
    result: list[dict[str, Any]] = json.loads(fetch(server, f"/api/v1/query?{urlencode({'query': text})}"))["data"][
        "result"
    ]
    return result


def number(server: Server, text: str) -> float:
    """The one value of an instant query, NaN when there is none."""
    found = query(server, text)
    assert len(found) < 2, found
    return float(found[0]["value"][1]) if found else math.nan


def ended(server: Server, text: str) -> bool:
    """Whether an instant query comes to have no result."""
    return not poll(lambda: bool(query(server, text)), want=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """Prometheus and an agent that writes to it, once with everything and once as it does by default."""

    prometheus: Server
    agent: Server
    config: str
    """The agent's."""


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Run both, in each version of remote_write."""
    tmp = tmp_path_factory.mktemp("native")
    with prometheus(tmp / "prometheus", FEATURES) as receiver:
        config = CONFIG.format(url=receiver.url, message=MESSAGES[request.param])
        with agent(tmp / "agent", config=config) as server:
            yield Pair(receiver, server, config)


def native(*fields: bytes, kind: int = pb.HISTOGRAM) -> bytes:
    """A family with one native histogram."""
    return pb.family("x", kind, pb.metric(pb.block(7, b"".join(fields)), a="b"))


BODIES = {
    "whole": (native(pb.native(6, 1.5, -2, 1, 1, 1)), 6.0, 1.5),
    "float": (native(pb.native_float(2.5, -4.0, 1, 0.5, 2.0)), 2.5, -4.0),
    "gauge": (native(pb.native(2, 3.0, 0, 2), kind=5), 2.0, 3.0),
    "coarse": (native(pb.native(2, 3.0, 0, 2, schema=-4)), 2.0, 3.0),
    "nothing observed": (native(pb.native(0, 0.0, 0)), 0.0, 0.0),
    "threshold alone": (native(pb.double(6, 0.5)), 0.0, 0.0),
}


@needs("prometheus")
@pytest.mark.parametrize("name", BODIES)
def test_a_native_histogram_arrives_and_ends(name: str, pair: Pair) -> None:
    """Prometheus answers with its count and sum, and with nothing once the group is deleted."""
    body, count, total = BODIES[name]
    job = name.replace(" ", "_")
    put(pair.agent, job, body)
    assert poll(lambda: number(pair.prometheus, f'histogram_count(x{{job="{job}"}})'), count) == count
    assert number(pair.prometheus, f'histogram_sum(x{{job="{job}"}})') == total
    send(Request("DELETE", f"/metrics/job/{job}"), pair.agent)
    assert ended(pair.prometheus, f'{{job="{job}"}}')


@needs("prometheus")
def test_buckets_keep_their_bounds(pair: Pair) -> None:
    """What Prometheus shows of the buckets is what the agent's API shows."""
    put(pair.agent, "bounds", native(pb.native(9, 1.5, 1, 2, 2, -1, schema=0)))
    selector = 'x{job="bounds"}'
    poll(lambda: bool(query(pair.prometheus, selector)), want=True)
    (found,) = query(pair.prometheus, selector)
    groups = json.loads(fetch(pair.agent, "/api/v1/metrics"))["data"]
    (group,) = (one for one in groups if one["labels"] == {"job": "bounds"})
    (metric,) = group["x"]["metrics"]
    assert metric["labels"] == {"a": "b", "instance": "", "job": "bounds"}
    assert {key: metric[key] for key in ("count", "sum", "buckets")} == found["histogram"][1]
    assert metric["buckets"] == [[0, "1", "2", "2"], [0, "2", "4", "4"], [0, "4", "8", "3"]]


@needs("prometheus")
def test_classic_buckets_beside_native_ones_arrive_too(pair: Pair) -> None:
    """A user who queries the one or the other loses nothing; both end together."""
    put(pair.agent, "both", native(pb.native(6, 1.5, -2, 1, 1, 1), pb.classic((0.5, 2))))
    selector = '{job="both",target="",a="b"}'
    want = {"x", "x_bucket 0.5 2", "x_bucket +Inf 6", "x_sum", "x_count"}

    def series() -> set[str]:
        return {
            " ".join(
                [one["metric"]["__name__"], *([one["metric"]["le"], one["value"][1]] if "le" in one["metric"] else [])]
            )
            for one in query(pair.prometheus, selector)
        }

    assert poll(series, want) == want
    put(pair.agent, "both", b"y 1\n", ())
    assert ended(pair.prometheus, selector)


@needs("prometheus")
def test_a_target_by_default_does_not_get_them(pair: Pair) -> None:
    """They are dropped for it with a reason, told once, and its account adds up; exemplars go without a count."""
    for value in (1, 2):
        put(
            pair.agent,
            "default",
            native(pb.native(value, 1.5, 0, value)) + pb.family("y", pb.GAUGE, pb.metric(pb.gauge(7))),
        )
    assert poll(lambda: number(pair.prometheus, 'y{job="default",target="plain"}'), 7.0) == 7.0
    assert query(pair.prometheus, 'x{job="default",target="plain"}') == []
    accounts = poll(lambda: account(pair.agent)['pending{target="plain"}'], 0.0)
    assert accounts == 0.0
    counts = account(pair.agent)
    dropped = counts['dropped_total{target="plain",reason="native_histograms_disabled"}']
    assert dropped >= 2
    assert counts["accepted_total"] == counts['delivered_total{target="plain"}'] + dropped
    log = [line for line in pair.agent.log_tail(100_000).splitlines() if "native_histograms_not_sent" in line]
    assert len(log) == 1
    assert "target=plain" in log[0]
    assert 'want="send_native_histograms: true"' in log[0]


@needs("prometheus")
@pytest.mark.parametrize("ends", ["stop", "kill"])
def test_a_native_histogram_survives_a_restart(ends: str, pair: Pair, tmp_path: Path) -> None:
    """After SIGTERM and SIGKILL alike it is shown and repeated as before, and its end is sent."""
    selector = f'x{{job="{ends}"}}'
    with agent(tmp_path, config=pair.config) as first:
        put(first, ends, native(pb.native(6, 1.5, -2, 1, 1, 1)))
        shown = fetch(first, "/api/v1/metrics")
        (first.stop if ends == "stop" else first.kill)()
    down_s = time.time()
    with agent(tmp_path, config=pair.config) as second:
        assert fetch(second, "/api/v1/metrics") == shown

        def repeated() -> bool:
            found = query(pair.prometheus, f"timestamp({selector})")
            return bool(found) and float(found[0]["value"][1]) > down_s

        assert poll(repeated, want=True)
        assert number(pair.prometheus, f"histogram_count({selector})") == 6.0
        send(Request("DELETE", f"/metrics/job/{ends}"), second)
        assert ended(pair.prometheus, selector)


def exemplars(server: Server, selector: str) -> list[tuple[dict[str, str], float, float]]:
    """Labels, value and seconds of what Prometheus keeps."""
    now_s = time.time()
    question = urlencode({"query": selector, "start": now_s - 3600, "end": now_s + 60})
    return [
        (one["labels"], float(one["value"]), one["timestamp"])
        for series in json.loads(fetch(server, f"/api/v1/query_exemplars?{question}"))["data"]
        for one in series["exemplars"]
    ]


@needs("prometheus")
def test_exemplars_arrive(pair: Pair) -> None:
    """From OpenMetrics and protobuf, with their own time or the push's, and only where they are wanted."""
    at_s = int(time.time()) - 30
    text = f'# TYPE c counter\nc_total 1 # {{trace_id="t1"}} 0.5 {at_s}.25\n# EOF\n'
    put(pair.agent, "exemplars", text.encode(), OPENMETRICS)
    want = [({"trace_id": "t1"}, 0.5, at_s + 0.25)]
    assert poll(lambda: exemplars(pair.prometheus, 'c_total{job="exemplars",target=""}'), want) == want
    bucket = pb.block(3, pb.integer(1, 1) + pb.double(2, 1.0) + pb.exemplar(3, 0.75, trace_id="t2"))
    family = pb.family("h", pb.HISTOGRAM, pb.metric(pb.block(7, pb.integer(1, 1) + bucket)))
    before_s = time.time()
    put(pair.agent, "exemplars", family)
    poll(lambda: len(exemplars(pair.prometheus, 'h_bucket{job="exemplars",target=""}')), 1)
    ((labels, value, seconds),) = exemplars(pair.prometheus, 'h_bucket{job="exemplars",target=""}')
    assert (labels, value) == ({"trace_id": "t2"}, 0.75)
    assert before_s - 1 <= seconds <= time.time() + 1
    poll(lambda: account(pair.agent)['pending{target="plain"}'], 0.0)
    assert exemplars(pair.prometheus, '{job="exemplars",target="plain"}') == []


CUSTOM = pb.family(
    "x",
    pb.HISTOGRAM,
    pb.metric(pb.block(7, pb.native(3, 1.5, 0, 1, 1, schema=-53) + pb.classic((0.5, 1), (float("inf"), 3)))),
)


OLD_EXEMPLARS = pb.family(
    "x",
    pb.HISTOGRAM,
    pb.metric(
        pb.block(
            7,
            pb.native(6, 1.5, -2, 1, 1, 1)
            + pb.exemplar(16, 9.0, 900, trace_id="t1")
            + pb.exemplar(16, 1.0, 1000, trace_id="t2"),
        )
    ),
) + pb.family("y", pb.GAUGE, pb.metric(pb.gauge(1)))
"""Pushed twice, the first exemplar is older than the newest that its series has."""


def test_custom_buckets_need_remote_write_2(tmp_path: Path) -> None:
    """Without a target that speaks it they are refused with what to do; the refusal is counted."""
    config = "remote_write: [{url: 'http://127.0.0.1:1/', send_native_histograms: true}]\n"
    with agent(tmp_path / "v1", config=config) as server:
        status, text = send(Request("PUT", "/metrics/job/j", CUSTOM, PROTOBUF), server)
        assert status == 400
        assert "custom buckets" in text
        assert "protobuf_message: io.prometheus.write.v2.Request" in text
        page = fetch(server, "/metrics").decode()
        assert 'pushbridge_pushes_total{method="put",outcome="refused",reason="custom_buckets"} 1' in page
    with agent(tmp_path / "none") as server:
        put(server, "j", CUSTOM)
        (group,) = json.loads(fetch(server, "/api/v1/metrics"))["data"]
        (metric,) = group["x"]["metrics"]
        assert metric["buckets"] == [[0, "-Inf", "0.5", "1"], [0, "0.5", "+Inf", "2"]]


def test_custom_buckets_go_to_targets_of_2_only(tmp_path: Path) -> None:
    """Beside one that speaks 2.0 a target of 1.0 gets the classic buckets, and the rest is counted by reason."""
    with ScriptedReceiver() as receiver:
        config = (
            "remote_write:\n"
            f"  - {{url: '{receiver.url}', name: old, send_native_histograms: true}}\n"
            "  - {url: 'http://127.0.0.1:1/', name: new, protobuf_message: io.prometheus.write.v2.Request}\n"
        )
        with agent(tmp_path, config=config) as server:
            put(server, "j", CUSTOM)
            key = 'dropped_total{target="old",reason="nhcb_in_rw1_not_supported"}'
            assert poll(lambda: account(server).get(key, 0.0), 1.0) == 1.0
            names = {dict(sample.series)["__name__"] for sample in receiver.stored()}
            assert {"x_bucket", "x_count", "x_sum"} < names


def test_metadata_is_sent_at_its_interval(tmp_path: Path) -> None:
    """TYPE, HELP and UNIT come in requests of their own, again and again, and are counted apart."""
    body = b"# TYPE x_seconds counter\n# UNIT x_seconds seconds\n# HELP x_seconds Time.\nx_seconds_total 1\n# EOF\n"
    with ScriptedReceiver() as receiver:
        config = receiver.config.replace("name: target", "name: target, metadata_config: {send_interval: 100ms}")
        with agent(tmp_path, config=config) as server:
            put(server, "j", body, OPENMETRICS)

            def metadata() -> list[WriteRequest]:
                bodies = [WriteRequest.FromString(bytes(snappy.decompress(one.body))) for one in receiver.requests()]
                return [request for request in bodies if request.metadata]

            requests = load.wait_for(metadata, lambda found: len(found) > 2 and len(found[-1].metadata) == 3)
            assert all(not request.timeseries for request in requests)
            assert requests[-1].metadata[2] == MetricMetadata(
                type=MetricMetadata.COUNTER, metric_family_name="x_seconds", help="Time.", unit="seconds"
            )
            sent = load.metrics(server.port)['pushbridge_metadata_sent_total{target="target"}']
            assert sent >= 3
            counts = account(server)
            assert (
                counts["accepted_total"]
                == counts['delivered_total{target="target"}'] + counts['pending{target="target"}']
            )


@pytest.mark.parametrize("met", ["ignores", "refuses"])
def test_a_target_that_fell_back_is_one_of_version_1(met: Literal["ignores", "refuses"], tmp_path: Path) -> None:
    """It gets metadata in requests of their own and no custom buckets, and a reload does not try 2.0 again."""
    target = "send_native_histograms: true, protobuf_message: io.prometheus.write.v2.Request"
    with ScriptedReceiver(Step(version_2=met)) as receiver:
        config = receiver.config.replace(
            "name: target", f"name: target, {target}, metadata_config: {{send_interval: 1s}}"
        )
        with agent(tmp_path, "--web.enable-lifecycle", config=config) as server:
            put(server, "j", b"# HELP first Helps.\nfirst 1\n", ())
            load.settled_account(server.port)
            assert [one.version for one in receiver.requests()[:2]] == ["2.0", "1.0"]
            status, text = send(Request("PUT", "/metrics/job/k", CUSTOM, PROTOBUF), server)
            assert (status, "custom buckets" in text) == (400, True)
            (tmp_path / "pushbridge.yml").write_text(f"rules: [{{match: {{job: x}}, ttl: 1h}}]\n{config}")
            assert load.request(server.port, "POST", "/-/reload").status == 200
            put(server, "m", b"second 2\n", ())
            load.settled_account(server.port)
            told = receiver.wait_for(lambda found: any(one.body and not one.samples for one in found[2:]))
            assert {one.version for one in told[1:]} == {"1.0"}
            families = {
                one.metric_family_name: one.help
                for request in told[1:]
                for one in WriteRequest.FromString(bytes(snappy.decompress(request.body))).metadata
            }
            assert families["first"] == "Helps."
            assert "push_time_seconds" in families


def test_beside_a_target_of_2_custom_buckets_are_dropped_for_one_that_fell_back(tmp_path: Path) -> None:
    """What is journaled for the other is counted by the reason that a target of 1.0 has, and is no dead letter."""
    target = "send_native_histograms: true, protobuf_message: io.prometheus.write.v2.Request"
    with ScriptedReceiver(Step(version_2="ignores")) as old, ScriptedReceiver() as new:
        lines = [f"  - {{url: '{one.url}', name: {name}, {target}}}\n" for one, name in ((old, "old"), (new, "new"))]
        with agent(tmp_path, config="remote_write:\n" + "".join(lines)) as server:

            def settled() -> dict[str, load.Account]:
                drained = lambda found: not any(one.pending for one in found.values())  # noqa: E731
                return load.wait_for(lambda: load.accounts(server.port), drained)

            put(server, "j", b"first 1\n", ())
            settled()
            put(server, "k", CUSTOM)
            found = settled()
            assert found["old"].dropped == {"nhcb_in_rw1_not_supported": 1}
            assert (found["new"].dropped, found["old"].dead_lettered) == ({}, {})


def test_metadata_can_be_left_out(tmp_path: Path) -> None:
    """With `send: false`, and to a target of 2.0, which has it on each series, no such requests are made."""
    with ScriptedReceiver() as old, ScriptedReceiver() as new:
        config = (
            "push: {hold_interval: 1s}\nremote_write:\n"
            f"  - {{url: '{old.url}', name: old, metadata_config: {{send: false, send_interval: 50ms}}}}\n"
            f"  - url: '{new.url}'\n    name: new\n    protobuf_message: io.prometheus.write.v2.Request\n"
            "    metadata_config: {send_interval: 50ms}\n"
        )
        with agent(tmp_path, config=config) as server:
            put(server, "j", b"x 1\n", ())
            # The repeats come when many intervals are over.
            old.wait_for(lambda requests: len(requests) > 2)
            counts = load.metrics(server.port).items()
            assert {value for key, value in counts if key.startswith("pushbridge_metadata_")} == {0}


def test_label_limits_come_before_everything(tmp_path: Path) -> None:
    """A grouping label that is too long leaves no trace, not even a failure time; the setting lifts the limit."""
    path = f"/metrics/job/j/team/{'v' * 2049}"
    with agent(tmp_path / "limited", "--push.max-label-value-length=2048") as server:
        status, text = send(Request("PUT", path, b"x 1\n"), server)
        assert status == 400
        assert "value of label team has 2049 bytes, more than push.max_label_value_length=2048" in text
        assert json.loads(fetch(server, "/api/v1/metrics"))["data"] == []
    with agent(tmp_path / "lifted", "--push.max-label-value-length=0") as server:
        assert send(Request("PUT", path, b"x 1\n"), server)[0] == 200
