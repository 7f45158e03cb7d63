"""What remote_write 2.0 carries beyond 1.0 reaches a real Prometheus that takes it, and goes on from there.

Prometheus forwards all it has to a receiver of ours, by 2.0 too: there stands what none of its queries tells.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge._pb.remote_write_v2_pb2 import Metadata
from tests.blackbox import delimited as pb
from tests.blackbox.binaries import takes
from tests.blackbox.compliance import MESSAGES, Sent, sent_by
from tests.blackbox.load import metrics, request, settled_account
from tests.blackbox.oracle_requests import OPENMETRICS, PROTOBUF, Headers, Request
from tests.blackbox.queries import PrometheusStore, fetch, now_ms, poll
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent, needs, prometheus
from tests.blackbox.test_native import CUSTOM, OLD_EXEMPLARS
from tests.blackbox.test_oracle import send

pytestmark = [pytest.mark.real, needs("prometheus"), takes("2.0")]

FEATURES = "--enable-feature=exemplar-storage,metadata-wal-records,created-timestamp-zero-ingestion,native-histograms"
OURS = f"""
push: {{{{enable_utf8_names: true}}}}
remote_write:
  - url: "{{url}}/api/v1/write"
    name: target
    protobuf_message: {MESSAGES["2.0"]}
    send_native_histograms: true
    send_exemplars: true
"""
THEIRS = f"""
scrape_configs: []
remote_write:
  - url: "{{url}}"
    protobuf_message: {MESSAGES["2.0"]}
    send_exemplars: true
    send_native_histograms: true
    queue_config: {{{{batch_send_deadline: 100ms}}}}
"""


@dataclass(frozen=True, slots=True)
class Chain:
    """An agent, the Prometheus that it writes to, and the receiver that Prometheus writes to."""

    agent: Server
    prometheus: Server
    receiver: ScriptedReceiver

    def push(self, job: str, body: bytes, headers: Headers = ()) -> None:
        """Push in place of what the group has; it is taken, and delivered."""
        status, text = send(Request("PUT", f"/metrics/job/{job}?wait=delivered", body, headers), self.agent)
        assert status == 200, text

    def forwarded(self, job: str) -> dict[str, Sent]:
        """What Prometheus made of a job's series, by name; the newest of each."""
        return {
            series.name: series
            for one in self.receiver.requests()
            for series in sent_by(one)
            if series.label("job") == job
        }


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run all three."""
    tmp = tmp_path_factory.mktemp("chain")
    with (
        ScriptedReceiver(ordered=False) as receiver,
        prometheus(tmp / "prometheus", FEATURES, config=THEIRS.format(url=receiver.url)) as second,
        agent(tmp / "agent", config=OURS.format(url=second.url)) as first,
    ):
        yield Chain(first, second, receiver)


TYPED = b"""\
# TYPE c_seconds counter
# HELP c_seconds Time spent.
# UNIT c_seconds seconds
c_seconds_total 3
# TYPE g gauge
g 1
# TYPE h histogram
# HELP h Sizes.
h_bucket{le="1.0"} 1
h_bucket{le="+Inf"} 2
h_sum 3
h_count 2
# TYPE s summary
s{quantile="0.5"} 1
s_sum 1
s_count 1
# TYPE b info
b_info{v="1"} 1
# TYPE st stateset
st{st="on"} 1
# TYPE gh gaugehistogram
gh_bucket{le="+Inf"} 2
gh_gcount 2
gh_gsum 3
# EOF
"""
ABOUT: dict[str, tuple[int, str, str]] = {
    "c_seconds_total": (Metadata.METRIC_TYPE_COUNTER, "Time spent.", "seconds"),
    "g": (Metadata.METRIC_TYPE_GAUGE, "", ""),
    **dict.fromkeys(("h_bucket", "h_sum", "h_count"), (Metadata.METRIC_TYPE_HISTOGRAM, "Sizes.", "")),
    **dict.fromkeys(("s", "s_sum", "s_count"), (Metadata.METRIC_TYPE_SUMMARY, "", "")),
    "b_info": (Metadata.METRIC_TYPE_INFO, "", ""),
    "st": (Metadata.METRIC_TYPE_STATESET, "", ""),
    **dict.fromkeys(("gh_bucket", "gh_gcount", "gh_gsum"), (Metadata.METRIC_TYPE_GAUGEHISTOGRAM, "", "")),
}


def test_type_help_and_unit_are_kept(chain: Chain) -> None:
    """Prometheus knows them of each series and tells them on."""
    chain.push("about", TYPED, OPENMETRICS)

    def told() -> dict[str, tuple[int, str, str]]:
        found = chain.forwarded("about")
        return {name: (one.type, one.help, one.unit) for name, one in found.items() if not name.startswith("push_")}

    assert poll(told, ABOUT) == ABOUT


def test_a_start_time_becomes_a_zero(chain: Chain) -> None:
    """A counter that says when it began has a zero at that millisecond, and its value at the push's."""
    start_ms = now_ms() - 45_678
    body = f"# TYPE c counter\nc_total 5\nc_created {start_ms / 1000:.3f}\n# EOF\n"
    chain.push("started", body.encode(), OPENMETRICS)
    points = {
        dict(labels)["__name__"]: found for labels, found in PrometheusStore(chain.prometheus).raw("started").items()
    }
    (first, (_, value)) = points["c_total"]
    assert (first, value) == ((start_ms, "0.0"), "5.0")


def test_custom_buckets_arrive(chain: Chain) -> None:
    """Their bounds are the pushed ones."""
    chain.push("custom", CUSTOM, PROTOBUF)
    (found,) = PrometheusStore(chain.prometheus).query('x{job="custom"}', now_ms())
    groups = json.loads(fetch(chain.agent, "/api/v1/metrics"))["data"]
    (metric,) = next(one for one in groups if one["labels"] == {"job": "custom"})["x"]["metrics"]
    shown = found["histogram"][1]
    assert {key: metric[key] for key in ("count", "sum")} == {key: shown[key] for key in ("count", "sum")}
    assert [bucket[1:] for bucket in shown["buckets"]] == [bucket[1:] for bucket in metric["buckets"]]


def test_an_exemplar_that_is_too_old_costs_no_sample(tmp_path: Path) -> None:
    """Prometheus answers 400 to it and has the sample: the push is delivered, and there is no dead letter."""
    with (
        prometheus(tmp_path / "prometheus", FEATURES) as receiver,
        agent(tmp_path / "agent", config=OURS.format(url=receiver.url)) as server,
    ):
        for _ in range(3):
            status, text = send(Request("PUT", "/metrics/job/old?wait=delivered", OLD_EXEMPLARS, PROTOBUF), server)
            assert status == 200, text
        final = settled_account(server.port)
        store = PrometheusStore(receiver)
        (found,) = store.query('count_over_time(x{job="old"}[1h])', now_ms())
        log = server.log_tail(100_000)
    assert (final.delivered, final.dead_lettered) == (final.accepted, {})
    assert found["value"][1] == "3"
    assert "remote_write_exemplars_refused" in log


def test_names_of_any_text_arrive(chain: Chain) -> None:
    """A metric and a label with dots in their names are stored under these names."""
    chain.push("utf8", b'{"http.requests", "status.code"="200", town="Z\xc3\xbcrich"} 7\n')
    raw = PrometheusStore(chain.prometheus).raw("utf8")
    want = {("__name__", "http.requests"), ("job", "utf8"), ("status.code", "200"), ("town", "Zürich")}
    ((_, value),) = next(points for labels, points in raw.items() if set(labels) == want)
    assert value == "7.0"


def test_what_it_wrote_is_counted(tmp_path: Path) -> None:
    """Samples, histograms and exemplars written are those that Prometheus appended; nothing falls back to 1.0."""
    histogram = pb.family("x", pb.HISTOGRAM, pb.metric(pb.block(7, pb.native(6, 1.5, -2, 1, 1, 1))))
    exemplar = b'# TYPE c counter\nc_total 1 # {trace_id="t1"} 0.5\n# EOF\n'
    with (
        prometheus(tmp_path / "prometheus", FEATURES) as receiver,
        agent(tmp_path / "agent", config=OURS.format(url=receiver.url)) as server,
    ):
        for job, body, content_type in (("h", histogram, PROTOBUF), ("e", exemplar, OPENMETRICS)):
            status, text = send(Request("PUT", f"/metrics/job/{job}?wait=delivered", body, content_type), server)
            assert status == 200, text
        assert request(server.port, "DELETE", "/metrics/job/h?wait=delivered").status == 200
        final = settled_account(server.port)
        page = fetch(receiver, "/metrics").decode()
        seen = metrics(server.port)
    appended = {
        "samples": _number(page, 'prometheus_tsdb_head_samples_appended_total{type="float"}'),
        "histograms": _number(page, 'prometheus_tsdb_head_samples_appended_total{type="histogram"}'),
        "exemplars": _number(page, "prometheus_tsdb_exemplar_exemplars_appended_total"),
    }
    written = {
        kind: seen[f'pushbridge_remote_write_written_total{{target="target",type="{kind}"}}'] for kind in appended
    }
    assert written == appended
    assert (written["histograms"], written["exemplars"]) == (2, 1)
    assert written["samples"] + 2 >= final.accepted == final.delivered
    assert seen['pushbridge_target_protocol{target="target",version="2.0"}'] == 1


def _number(page: str, key: str) -> float:
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{key} "))
