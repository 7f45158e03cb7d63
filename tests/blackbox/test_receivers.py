"""Pushes travel through a running agent into a real Prometheus and a real VictoriaMetrics at the same time.

What is asked of the receivers afterwards is exact: label sets, values, milliseconds. How to ask is `queries`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.blackbox import delimited as pb
from tests.blackbox.binaries import VERSIONS
from tests.blackbox.compliance import MESSAGES
from tests.blackbox.oracle_requests import OPENMETRICS, PROTOBUF, Headers, Request
from tests.blackbox.ports import free_port
from tests.blackbox.queries import Labels, Point, Receivers, Store, account, latest, now_ms, poll, shown_ms
from tests.blackbox.servers import Server, agent, needs, prometheus, victoria_metrics
from tests.blackbox.test_oracle import send

pytestmark = [pytest.mark.real, needs("prometheus"), needs("victoria-metrics")]

EXTERNAL = {"cluster": "eu1", "site": "Zürich/2"}
CONFIG = """
global: {{external_labels: {{cluster: eu1, site: Zürich/2}}}}
web: {{expose_groups: true}}
remote_write:
  - {{name: prometheus, url: "http://127.0.0.1:{prometheus}/api/v1/write", protobuf_message: {message}}}
  - {{name: victoria-metrics, url: "http://127.0.0.1:{victoria}/api/v1/write", protobuf_message: {message}}}
"""
VICTORIA_FLAGS = ("-search.latencyOffset=0s", "-search.disableCache")
AT_MS = now_ms() - 61_234
"""The explicit timestamp, in bodies that have one."""

# name, value as pushed, as Prometheus keeps it, as VictoriaMetrics keeps it (None: not at all). VictoriaMetrics
# stores decimal numbers of limited length, and no NaN but the marker.
VALUES: tuple[tuple[str, str, str, str | None], ...] = (
    ("v_nan", "NaN", "nan", None),
    ("v_plus_inf", "+Inf", "inf", "inf"),
    ("v_minus_inf", "-Inf", "-inf", "-inf"),
    ("v_zero", "0", "0.0", "0.0"),
    ("v_minus_zero", "-0", "-0.0", "0.0"),
    ("v_largest", "1.7976931348623157e308", "1.7976931348623157e+308", "1.797693134862315e+308"),
    ("v_largest_negative", "-1.7976931348623157e308", "-1.7976931348623157e+308", "-1.797693134862315e+308"),
    ("v_smallest_normal", "2.2250738585072014e-308", "2.2250738585072014e-308", "0.0"),
    ("v_smallest", "5e-324", "5e-324", "0.0"),
    ("v_seventeen_digits", "0.30000000000000004", "0.30000000000000004", "0.3"),
    ("v_large_integer", "9007199254740993", "9007199254740992.0", "9007199254740992.0"),
    ("v_tiny", "-1e-20", "-1e-20", "-1e-20"),
    ("v_exponent", "1.25E+21", "1.25e+21", "1.25e+21"),
)


@dataclass(frozen=True, slots=True)
class Want:
    """One series that a push must leave in both receivers."""

    name: str
    value: str
    """As Python spells the float."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels besides job and the external ones."""
    at_ms: int | None = None
    """Its own timestamp, None for the push's."""


@dataclass(frozen=True, slots=True)
class Case:
    """A body in one format and the series it holds."""

    body: bytes
    want: tuple[Want, ...]
    headers: Headers = ()
    grouping: str = ""
    """What follows the job in the path."""
    grouping_labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ending:
    """A request that ends series of a group that holds `FIRST`."""

    method: str
    body: bytes
    left: tuple[Want, ...]
    """What an instant query still returns, besides `gauges`."""
    gauges: tuple[str, ...] = ("push_time_seconds", "push_failure_time_seconds")


_HISTOGRAM = (
    Want("h_bucket", "1.0", {"le": "0.5"}),
    Want("h_bucket", "3.0", {"le": "1.0"}),
    Want("h_bucket", "4.0", {"le": "+Inf"}),
    Want("h_sum", "5.5"),
    Want("h_count", "4.0"),
)
_SUMMARY = (
    Want("s", "0.25", {"quantile": "0.5"}),
    Want("s", "nan", {"quantile": "1.0"}),
    Want("s_sum", "12.5"),
    Want("s_count", "7.0"),
)
_SIMPLE = (
    Want("c_total", "5.0", {"code": "200"}),
    Want("g", "-1.5"),
    Want("u", "1.0", {"a": "1", "b": "2"}),
    Want("at", "4.0", {"town": "Zürich"}, AT_MS),
)
_SPECIAL = tuple(Want(name, value) for name, _, value, _ in VALUES)
_SPECIAL_TEXT = "".join(f"# TYPE {name} gauge\n{name} {spelled}\n" for name, spelled, _, _ in VALUES)
_TEXT = (
    '# HELP c_total Requests.\n# TYPE c_total counter\nc_total{code="200"} 5\n# TYPE g gauge\ng -1.5\n'
    '# TYPE s summary\ns{quantile="0.5"} 0.25\ns{quantile="1"} NaN\ns_sum 12.5\ns_count 7\n'
    '# TYPE h histogram\nh_bucket{le="0.5"} 1\nh_bucket{le="1"} 3\nh_bucket{le="+Inf"} 4\nh_sum 5.5\nh_count 4\n'
    f'# TYPE u untyped\nu{{b="2",a="1"}} 1\nat{{town="Zürich"}} 4 {AT_MS}\n{_SPECIAL_TEXT}'
)
_OPENMETRICS = (
    "# HELP c Requests.\n# TYPE c counter\n"
    'c_total{code="200"} 5.0 # {trace_id="abc"} 1.0\nc_created{code="200"} 1.5e9\n'
    '# TYPE g gauge\ng -1.5\n# TYPE s summary\ns{quantile="0.5"} 0.25\ns{quantile="1.0"} NaN\ns_sum 12.5\n'
    's_count 7\n# TYPE h histogram\nh_bucket{le="0.5"} 1\nh_bucket{le="1.0"} 3\nh_bucket{le="+Inf"} 4\n'
    'h_sum 5.5\nh_count 4\n# TYPE b info\nb_info{version="1.2"} 1\n# TYPE st stateset\nst{st="on"} 1\nst{st="off"} 0\n'
    '# TYPE gh gaugehistogram\ngh_bucket{le="1.0"} 1\ngh_bucket{le="+Inf"} 2\ngh_gcount 2\ngh_gsum -3\n'
    '# TYPE u unknown\nu{b="2",a="1"} 1\n# TYPE at unknown\n'
    f'at{{town="Zürich"}} 4 {AT_MS / 1000:.3f}\n{_SPECIAL_TEXT}# EOF\n'
)
# The histogram has no +Inf bucket, as Go's client leaves it out.
_PROTOBUF = (
    pb.family("c_total", pb.COUNTER, pb.metric(pb.counter(5), code="200"), help_text="Requests.")
    + pb.family("g", pb.GAUGE, pb.metric(pb.gauge(-1.5)))
    + pb.family("s", pb.SUMMARY, pb.metric(pb.summary(7, 12.5, (0.5, 0.25), (1, math.nan))))
    + pb.family("h", pb.HISTOGRAM, pb.metric(pb.histogram(4, 5.5, (0.5, 1), (1, 3))))
    + pb.family("u", pb.UNTYPED, pb.metric(pb.untyped(1), b="2", a="1"))
    + pb.family("at", pb.GAUGE, pb.metric(pb.gauge(4), AT_MS, town="Zürich"))
    + b"".join(pb.family(name, pb.GAUGE, pb.metric(pb.gauge(float(value)))) for name, value, _, _ in VALUES)
)
_LABELS = (
    'l{town="Zürich 北京 🎉",text="say \\"hi\\"\\n\\\\",comma="a,b={}",space=" x "} 1\n'
    'l{empty="",job="other",instance="body",zone="body",k="kept"} 2\n'
    'l{cluster="own",site="",k="external"} 3\n'
    f'l{{long="{"é" * 1000}",k="long"}} 4\n'
)
CASES = {
    "text": Case(_TEXT.encode(), (*_SIMPLE, *_SUMMARY, *_HISTOGRAM, *_SPECIAL)),
    "openmetrics": Case(
        _OPENMETRICS.encode(),
        (
            *(*_SIMPLE, *_SUMMARY, *_HISTOGRAM, *_SPECIAL),
            Want("c_created", "1500000000.0", {"code": "200"}),
            Want("b_info", "1.0", {"version": "1.2"}),
            Want("st", "1.0", {"st": "on"}),
            Want("st", "0.0", {"st": "off"}),
            Want("gh_bucket", "1.0", {"le": "1.0"}),
            Want("gh_bucket", "2.0", {"le": "+Inf"}),
            Want("gh_gcount", "2.0"),
            Want("gh_gsum", "-3.0"),
        ),
        OPENMETRICS,
    ),
    "protobuf": Case(_PROTOBUF, (*_SIMPLE, *_SUMMARY, *_HISTOGRAM, *_SPECIAL), PROTOBUF),
    "labels": Case(
        _LABELS.encode(),
        (
            Want("l", "1.0", {"town": "Zürich 北京 🎉", "text": 'say "hi"\n\\', "comma": "a,b={}", "space": " x "}),
            Want("l", "2.0", {"k": "kept"}),
            Want("l", "3.0", {"cluster": "own", "k": "external"}),
            Want("l", "4.0", {"long": "é" * 1000, "k": "long"}),
        ),
        grouping="/instance/db1/zone@base64/w7wvMQ/void@base64/=",
        grouping_labels={"instance": "db1", "zone": "ü/1"},
    ),
}
FIRST = (Want("e_a", "1.0", {"k": "1"}), Want("e_a", "2.0", {"k": "2"}), Want("e_b", "3.0"))
FIRST_BODY = b'e_a{k="1"} 1\ne_a{k="2"} 2\ne_b 3\n'
ENDINGS = {
    "put_leaves_out_series": Ending("PUT", b'e_a{k="1"} 4\n', (Want("e_a", "4.0", {"k": "1"}),)),
    "put_of_nothing": Ending("PUT", b"", ()),
    "post_replaces_family": Ending("POST", b'e_a{k="3"} 4\n', (Want("e_a", "4.0", {"k": "3"}), Want("e_b", "3.0"))),
    "delete": Ending("DELETE", b"", (), gauges=()),
}


@pytest.fixture(scope="module", params=VERSIONS)
def receivers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receivers]:
    """Run both receivers, to be spoken to in each version; VictoriaMetrics makes the agent fall back to 1.0."""
    directory = tmp_path_factory.mktemp("receivers")
    with (
        prometheus(directory / "prometheus") as first,
        victoria_metrics(directory / "victoria", *VICTORIA_FLAGS) as second,
    ):
        yield Receivers(first, second, MESSAGES[request.param])


@pytest.fixture(scope="module")
def bridge(receivers: Receivers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run an agent that delivers to both receivers."""
    with agent(tmp_path_factory.mktemp("agent"), config=config_for(receivers)) as server:
        yield server


@pytest.fixture(params=[0, 1], ids=["prometheus", "victoria"])
def store(request: pytest.FixtureRequest, receivers: Receivers) -> Store:
    """Each receiver in turn; the agent always delivers to both."""
    return receivers.stores[request.param]


@pytest.mark.parametrize("name", CASES)
def test_push_arrives_exactly(name: str, store: Store, bridge: Server) -> None:
    """Every series arrives with just its labels and value, at the push's millisecond or at its own."""
    case, job = CASES[name], f"{name}_{store.name}"
    push_ms = push(bridge, job, case.body, case.headers, case.grouping)
    assert shown_ms(bridge, "push_failure_time_seconds", job) == 0
    want = expected(case.want, job, push_ms, store, case.grouping_labels)
    assert poll(lambda: store.raw(job), want) == want
    assert store.markers(job) == {}


def test_push_larger_than_one_request_arrives_whole(store: Store, bridge: Server) -> None:
    """A push of several requests' samples arrives without a gap, all of it at the push's millisecond."""
    job = f"large_{store.name}"
    push_ms = push(bridge, job, "".join(f'big{{n="{n}"}} {n}\n' for n in range(4500)).encode())
    series = tuple(Want("big", repr(float(n)), {"n": str(n)}) for n in range(4500))
    want = expected(series, job, push_ms, store)
    assert poll(lambda: store.raw(job), want) == want


@pytest.mark.parametrize("name", ENDINGS)
def test_instant_query_loses_what_ended_at_once(name: str, store: Store, bridge: Server) -> None:
    """What a request ends has one marker at its millisecond: from then on instant queries return only the rest.

    VictoriaMetrics (1.79.5) keeps the marker and heeds it just as Prometheus does.
    """
    ending, job = ENDINGS[name], f"{name}_{store.name}"
    first_ms = push(bridge, job, FIRST_BODY)
    before = latest(expected(FIRST, job, first_ms, store))
    assert poll(lambda: store.instant(job, first_ms), before) == before
    started_ms = now_ms()
    status, text = send(Request(ending.method, f"/metrics/job/{job}", ending.body), bridge)
    finished_ms = now_ms()
    assert status in (200, 202), text

    survivors = {series(want.name, job, want.labels) for want in ending.left} | {series(g, job) for g in ending.gauges}
    ended = before.keys() - survivors
    assert poll(lambda: set(store.markers(job)), ended) == ended
    ((ended_ms,),) = set(store.markers(job).values())
    assert started_ms <= ended_ms <= finished_ms
    after = latest(expected(ending.left, job, ended_ms, store)) if ending.gauges else {}
    assert poll(lambda: store.instant(job, ended_ms), after) == after
    assert store.instant(job, now_ms()) == after
    assert store.instant(job, ended_ms - 1) == before


def test_series_that_comes_back_is_returned_again(store: Store, bridge: Server) -> None:
    """A series pushed again after its end is returned by instant queries with its new value."""
    job = f"comes_back_{store.name}"
    times = [push(bridge, job, body) for body in (b"x 1\ny 1\n", b"y 2\n", b"x 3\ny 3\n")]
    want = latest(expected((Want("x", "3.0"), Want("y", "3.0")), job, times[2], store))
    assert poll(lambda: store.instant(job, now_ms()), want) == want
    assert store.markers(job) == {series("x", job): (times[1],)}
    assert store.raw(job)[series("x", job)] == ((times[0], "1.0"), (times[2], "3.0"))


def test_series_with_its_own_timestamp_ends_without_marker(store: Store, bridge: Server) -> None:
    """A series that was pushed with an explicit timestamp gets no marker when a PUT leaves it out."""
    job = f"own_time_{store.name}"
    push(bridge, job, f"own 1 {AT_MS}\nplain 1\nrest 1\n".encode())
    push_ms = push(bridge, job, b"rest 2\n")
    want: dict[Labels, tuple[int, ...]] = {series("plain", job): (push_ms,)}
    assert poll(lambda: store.markers(job), want) == want
    assert store.raw(job)[series("own", job)] == ((AT_MS, "1.0"),)


def test_refused_push_ends_nothing_and_its_time_arrives(store: Store, bridge: Server) -> None:
    """A refused push leaves the group's series alive and is seen as push_failure_time_seconds."""
    job = f"refused_{store.name}"
    push_ms = push(bridge, job, FIRST_BODY)
    started_ms = now_ms()
    status, _ = send(Request("PUT", f"/metrics/job/{job}", b"e_b 4\nbroken\n"), bridge)
    assert status == 400
    failure_ms = shown_ms(bridge, "push_failure_time_seconds", job)
    assert started_ms <= failure_ms <= now_ms()
    want = expected(FIRST, job, push_ms, store)
    want[series("push_time_seconds", job)] += ((failure_ms, repr(push_ms / 1000)),)
    want[series("push_failure_time_seconds", job)] += ((failure_ms, repr(failure_ms / 1000)),)
    assert poll(lambda: store.raw(job), want) == want
    assert store.markers(job) == {}
    assert store.instant(job, now_ms()) == latest(want)


def test_restart_of_the_agent_ends_nothing(receivers: Receivers, tmp_path: Path) -> None:
    """SIGTERM and a new start send nothing again and no marker; a series left out after it still ends."""
    job, barrier = "restart", "restart_barrier"
    with agent(tmp_path, config=config_for(receivers)) as first:
        first_ms = push(first, job, FIRST_BODY)
        assert first.stop() == 0
    with agent(tmp_path, config=config_for(receivers)) as second:
        barrier_ms = push(second, barrier, b"x 1\n")
        for store in receivers.stores:
            # A target gets everything in order, so whatever the stop or the start sent is there before this.
            passed = expected((Want("x", "1.0"),), barrier, barrier_ms, store)
            assert poll(lambda: store.raw(barrier), passed) == passed  # noqa: B023 - called at once
            assert store.raw(job) == expected(FIRST, job, first_ms, store)
            assert store.markers(job) == {}
            assert store.instant(job, now_ms()) == latest(store.raw(job))
        second_ms = push(second, job, b"e_b 4\n")
        for store in receivers.stores:
            want = latest(expected((Want("e_b", "4.0"),), job, second_ms, store))
            assert poll(lambda: store.instant(job, now_ms()), want) == want  # noqa: B023 - called at once


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("down", [0, 1], ids=["prometheus", "victoria"])
def test_outage_of_one_target_delays_only_that_one(down: int, version: str, tmp_path: Path) -> None:
    """The other target gets pushes meanwhile; the one that was down gets them later, at their own milliseconds."""
    ports, job = (free_port(), free_port()), "outage"
    starters: tuple[Callable[[], Server], Callable[[], Server]] = (
        lambda: prometheus(tmp_path / "prometheus", port=ports[0]),
        lambda: victoria_metrics(tmp_path / "victoria", *VICTORIA_FLAGS, port=ports[1]),
    )
    with ExitStack() as stack:
        servers = [stack.enter_context(start()) for start in starters]
        place = Receivers(servers[0], servers[1], MESSAGES[version])
        bridge = stack.enter_context(agent(tmp_path / "agent", config=config_for(place)))
        times = [push(bridge, job, b"x 1\ny 1\n")]
        for store in place.stores:
            want = expected((Want("x", "1.0"), Want("y", "1.0")), job, times[0], store)
            assert poll(lambda: store.raw(job), want) == want  # noqa: B023 - called at once
        assert servers[down].stop() == 0
        times += [push(bridge, job, b"x 2\ny 2\n"), push(bridge, job, b"x 3\n")]
        assert_history(place.stores[1 - down], job, times)
        stack.enter_context(starters[down]())
        assert_history(place.stores[down], job, times)


def test_agent_counts_what_the_receivers_hold(receivers: Receivers, tmp_path: Path) -> None:
    """The samples that the agent accepted are those it delivered to each target, and those that Prometheus has."""
    job = "counted"
    with agent(tmp_path, config=config_for(receivers)) as bridge:
        push(bridge, job, FIRST_BODY)
        push(bridge, job, b"e_b 4\n")
        send(Request("DELETE", f"/metrics/job/{job}"), bridge)
        want = {f'delivered_total{{target="{name}"}}': 13.0 for name in ("prometheus", "victoria-metrics")}
        want |= {f'pending{{target="{name}"}}': 0.0 for name in ("prometheus", "victoria-metrics")}
        want |= {"accepted_total": 13.0}
        want |= {f'retried_total{{target="{name}"}}': 0.0 for name in ("prometheus", "victoria-metrics")}
        assert poll(lambda: account(bridge), want) == want
    for store in receivers.stores:
        assert sum(map(len, store.raw(job).values())) + sum(map(len, store.markers(job).values())) == 13


def assert_history(store: Store, job: str, times: list[int]) -> None:
    """Check the three pushes of the outage: x stays, y ends with the third."""
    want: dict[Labels, tuple[Point, ...]] = {
        series("x", job): tuple((at_ms, repr(float(n))) for n, at_ms in enumerate(times, 1)),
        series("y", job): tuple((at_ms, repr(float(n))) for n, at_ms in enumerate(times[:2], 1)),
        series("push_time_seconds", job): tuple((at_ms, repr(at_ms / 1000)) for at_ms in times),
        series("push_failure_time_seconds", job): tuple((at_ms, "0.0") for at_ms in times),
    }
    assert poll(lambda: store.raw(job), want) == want
    markers: dict[Labels, tuple[int, ...]] = {series("y", job): (times[2],)}
    assert poll(lambda: store.markers(job), markers) == markers


def config_for(receivers: Receivers) -> str:
    """Give the configuration of an agent that delivers to both."""
    ports = {"prometheus": receivers.prometheus.port, "victoria": receivers.victoria.port}
    return CONFIG.format(**ports, message=receivers.message)


def push(server: Server, job: str, body: bytes, headers: Headers = (), grouping: str = "") -> int:
    """PUT a good body; return the push time that /metrics shows, which lies within the request's window (ms)."""
    started_ms = now_ms()
    status, text = send(Request("PUT", f"/metrics/job/{job}{grouping}", body, headers), server)
    finished_ms = now_ms()
    assert status == 200, text
    push_ms = shown_ms(server, "push_time_seconds", job)
    assert started_ms <= push_ms <= finished_ms
    return push_ms


def series(name: str, job: str, labels: dict[str, str] | None = None) -> Labels:
    """Give all labels that a series has in a receiver."""
    return tuple(sorted({**EXTERNAL, "job": job, **(labels or {}), "__name__": name}.items()))


def expected(
    wants: tuple[Want, ...], job: str, push_ms: int, store: Store, grouping: dict[str, str] | None = None
) -> dict[Labels, tuple[Point, ...]]:
    """Give what `store` must hold of a group after one push, its two push times with it."""
    times = (Want("push_time_seconds", repr(push_ms / 1000)), Want("push_failure_time_seconds", "0.0"))
    kept = {value: victoria for _, _, value, victoria in VALUES} if store.name == "victoria-metrics" else {}
    return {
        series(want.name, job, {**want.labels, **(grouping or {})}): ((want.at_ms or push_ms, value),)
        for want in (*wants, *times)
        if (value := kept.get(want.value, want.value)) is not None
    }
