"""Lets the official Python client push to the agent and to the real Pushgateway, and compares what both then show.

The client's own functions only; requests that it would not write are `test_oracle`'s.
"""

import http.client
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    delete_from_gateway,
    instance_ip_grouping_key,
    push_to_gateway,
    pushadd_to_gateway,
)
from prometheus_client.core import GaugeMetricFamily, Metric, UntypedMetricFamily
from prometheus_client.exposition import default_handler, passthrough_redirect_handler
from prometheus_client.registry import Collector

from tests.blackbox.exposition_diff import PushedSeries, pushed_series
from tests.blackbox.servers import Server, agent, needs, pushgateway

pytestmark = [pytest.mark.real, needs("prometheus-pushgateway")]

Grouping = dict[str, object]
Encoding = Literal["gzip", "snappy"] | None
Push = Callable[..., None]
Handler = Callable[[str, str, float | None, list[tuple[str, str]], bytes], Callable[[], None]]

PUSHES: dict[str, Push] = {"push": push_to_gateway, "pushadd": pushadd_to_gateway}
LONG = "a/long value " * 200
LONGER_THAN_A_LINE = "x" * 20_000


@dataclass(frozen=True, slots=True)
class Compression:
    """One value of the client's `compression=`."""

    ours: Encoding
    real: Encoding
    """What the Pushgateway is sent instead, where Debian's 1.5.1 cannot read ours."""
    refused: bool = False
    """Whether Debian's 1.5.1 refuses `ours`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A push that both servers refuse."""

    job: str
    collector: Collector
    grouping: Grouping
    words: tuple[str, ...]
    """Parts of our answer: what is wrong, and where."""


class Collected(Collector):
    """Gives families as they are, also ones that no metric class would let through."""

    def __init__(self, *families: Metric) -> None:
        """Keep `families`."""
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        return self._families


def _twice(first: dict[str, str], second: dict[str, str]) -> Collected:
    family = GaugeMetricFamily("client_twice", "The same series two times.")
    family.add_sample("client_twice", first, 1)
    family.add_sample("client_twice", second, 2)
    return Collected(family)


COMPRESSIONS = {
    "none": Compression(None, None),
    "gzip": Compression("gzip", "gzip"),
    "snappy": Compression("snappy", None, refused=True),
}
GROUPINGS: dict[str, Grouping] = {
    "job_only": {},
    "slash": {"path": "/srv/data/"},
    "only_slash": {"path": "/"},
    "spaces": {"title": " two  words "},
    "empty": {"shard": ""},
    "empty_instance": {"instance": ""},
    "not_ascii": {"town": "Zürich 北京 🎉", "river": "Aare_Müñ"},
    "equals": {"query": "a=b=="},
    "percent": {"share": "100%25%"},
    "plus": {"sum": "1+1"},
    "url_signs": {"url": "?a#b&c;d:e@f,g~h*!()'[]{}|^`<>"},
    "quote_and_backslash": {"text": 'say "hi" \\n \\'},
    "line_feed": {"text": "one\ntwo\ttabs"},
    "dots_within": {"version": "1..2.", "file": ".hidden"},
    "looks_like_base64": {"name": "YQ=="},
    "numbers": {"shard": 5, "ratio": 0.5, "yes": True},
    "long": {"text": LONG},
    "many": {f"label_{number:02d}": f"v/{number}" for number in range(25)},
}
REFUSALS = {
    "same_series_twice": Refusal(
        "refused", _twice({"a": "1"}, {"a": "1"}), {}, ("client_twice", "in line 3 and in line 4")
    ),
    "grouping_makes_duplicates": Refusal(
        "refused", _twice({"a": "1"}, {"a": "2"}), {"a": "key"}, ("client_twice", "in line 3 and in line 4")
    ),
    "label_with_dunder": Refusal("refused", _twice({"__a": "1"}, {}), {}, ("client_twice", "__a", "line 3")),
    "second_type_line": Refusal(
        "refused",
        Collected(Metric("client_clash", "", "summary"), UntypedMetricFamily("client_clash_count", "", 1)),
        {},
        ("line 4", "second TYPE line", "client_clash"),
    ),
    "empty_job": Refusal("", _twice({}, {"a": "1"}), {}, ("job name is required",)),
    "bad_label_name": Refusal("refused", _twice({}, {"a": "1"}), {"a-b": "1"}, ('improper label name "a-b"',)),
    "dunder_label_name": Refusal("refused", _twice({}, {"a": "1"}), {"__a": "1"}, ('improper label name "__a"',)),
}
JOBS = ("nightly/backup", "two words", "Zürich", "a=b", "100%", "1+1", "..x", "YQ==")
OWN_NAMES = ("python_info", "python_gc_collections_total", "process_cpu_seconds_total")


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the client, which heeds the environment's proxies, on loopback."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run Debian's Pushgateway."""
    with pushgateway(tmp_path_factory.mktemp("pushgateway")) as server:
        yield server


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the agent without a target, so that /metrics shows the groups."""
    with agent(tmp_path_factory.mktemp("agent")) as server:
        yield server


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize("method", PUSHES)
def test_every_metric_type_is_shown_as_on_pushgateway(
    method: str, compression: Compression, real: Server, ours: Server
) -> None:
    """A registry with every metric type gives the same series and metadata, in each compression."""
    job = f"types_{method}_{compression.ours}"
    registry = every_type()
    PUSHES[method](real.url, job, registry, compression=compression.real)
    PUSHES[method](ours.url, job, registry, compression=compression.ours)
    want = shown(real, job)
    assert shown(ours, job) == want
    assert metadata(ours) == metadata(real)
    assert {name for name, _ in want} >= {
        "client_runs_total",
        "client_level",
        "client_size_bytes_sum",
        "client_seconds_bucket",
        "client_build_info",
        "client_state",
    }


@pytest.mark.parametrize(
    "compression",
    [row for row in COMPRESSIONS.values() if row.refused],
    ids=[name for name, row in COMPRESSIONS.items() if row.refused],
)
def test_pushgateway_still_refuses_this_compression(compression: Compression, real: Server) -> None:
    """Debian's Pushgateway does not read what the table says it cannot."""
    status, _ = answer(lambda: push_to_gateway(real.url, "refused", gauge("client_a", 1), compression=compression.ours))
    assert status == http.client.BAD_REQUEST


@pytest.mark.parametrize("grouping", GROUPINGS.values(), ids=GROUPINGS)
def test_grouping_key_names_the_same_group(
    grouping: Grouping, real: Server, ours: Server, request: pytest.FixtureRequest
) -> None:
    """A grouping key is written, added to, replaced and deleted as on the Pushgateway."""
    job = f"grouping_{request.node.callspec.id}"
    follow_a_group(job, grouping, real, ours)


@pytest.mark.parametrize("job", JOBS)
def test_job_name_names_the_same_group(job: str, real: Server, ours: Server) -> None:
    """A job name with any sign in it is written, added to, replaced and deleted as on the Pushgateway."""
    follow_a_group(job, {"k": "v"}, real, ours)


def test_grouping_value_of_20_kb_is_taken(real: Server, ours: Server) -> None:
    """A label value that makes a long request line is taken as on the Pushgateway."""
    key: Grouping = {"text": LONGER_THAN_A_LINE}
    want = answer(lambda: push_to_gateway(real.url, "long_line", gauge("client_a", 1), key))
    assert answer(lambda: push_to_gateway(ours.url, "long_line", gauge("client_a", 1), key)) == want == (200, "")


def test_delete_ends_only_the_group_with_exactly_that_key(real: Server, ours: Server) -> None:
    """delete_from_gateway ends one group on both servers and leaves its neighbours."""
    keys: tuple[Grouping, ...] = ({}, {"shard": "a/b"}, {"shard": "a/b", "zone": "c d"})
    for server in (real, ours):
        for number, key in enumerate(keys):
            push_to_gateway(server.url, "delete_one", gauge(f"client_{number}", number), key)
        delete_from_gateway(server.url, "delete_one", {"shard": "a/b"})
        delete_from_gateway(server.url, "delete_one", {"shard": "unknown"})
    got = shown(ours, "delete_one")
    assert got == shown(real, "delete_one")
    assert {name for name, _ in got if name.startswith("client_")} == {"client_0", "client_2"}


def test_a_key_that_differs_in_an_empty_label_only_is_refused(real: Server, ours: Server) -> None:
    """Delivered, its series and push times would be those of the other group, so 400; the Pushgateway keeps two."""
    keys: tuple[Grouping, ...] = ({"zone": "z"}, {"zone": "z", "shard": ""})
    for server, want in ((real, [200, 200]), (ours, [200, 400])):
        got = [answer(partial(push_to_gateway, server.url, "empty", gauge("client_a", 1), key))[0] for key in keys]
        assert got == want


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("method", PUSHES)
def test_bad_push_raises_with_our_words(method: str, case: Refusal, real: Server, ours: Server) -> None:
    """A push that the Pushgateway refuses raises HTTPError with its status, and our text says what and where."""
    push = PUSHES[method]
    want, _ = answer(lambda: push(real.url, case.job, case.collector, case.grouping))
    status, text = answer(lambda: push(ours.url, case.job, case.collector, case.grouping))
    assert status == want == http.client.BAD_REQUEST
    assert [part for part in case.words if part not in text] == [], text


def test_instance_ip_grouping_key_sets_the_instance(real: Server, ours: Server) -> None:
    """instance_ip_grouping_key puts the same instance label on every series."""
    key = instance_ip_grouping_key()
    for server in (real, ours):
        push_to_gateway(server.url, "instance_ip", gauge("client_a", 1), key)
    got = shown(ours, "instance_ip")
    assert got == shown(real, "instance_ip")
    assert {dict(labels)["instance"] for _, labels in got} == {key["instance"]}


def test_default_registry_is_taken_beside_the_servers_own_metrics(real: Server, ours: Server) -> None:
    """The client's process and interpreter metrics are taken, though a server has some of the same name itself."""
    for server in (real, ours):
        pushadd_to_gateway(server.url, "default_registry", None)
    names = names_of_job(ours, "default_registry")
    assert names == names_of_job(real, "default_registry")
    assert names >= set(OWN_NAMES)


@pytest.mark.parametrize("spelling", ["{address}", "http://{address}/", "{address}//"])
def test_gateway_may_be_spelled_as_the_client_allows(spelling: str, real: Server, ours: Server) -> None:
    """A gateway without scheme or with slashes at the end is reached as the Pushgateway is."""
    job = f"spelling_{spelling.count('/')}"
    for server in (real, ours):
        push_to_gateway(spelling.format(address=urlsplit(server.url).netloc), job, gauge("client_a", 1))
    assert shown(ours, job) == shown(real, job) != {}


def test_handler_may_keep_one_connection_for_many_pushes(real: Server, ours: Server) -> None:
    """Pushes, a refused one and a delete through a handler's own connection are answered one after the other."""
    assert statuses_over_one_connection(ours) == statuses_over_one_connection(real) == [200, 400, 200, 202, 200]
    assert shown(ours, "one_connection") == shown(real, "one_connection") != {}


def test_redirect_is_given_for_a_path_with_dots(real: Server, ours: Server) -> None:
    """A path with dot segments is redirected: the plain handler raises, the one that follows redirects arrives."""
    for server in (real, ours):
        push = partial(push_to_gateway, f"{server.url}/.", "redirected", gauge("client_a", 1))
        status, _ = answer(partial(push, handler=default_handler))
        assert status == http.client.MOVED_PERMANENTLY
        push(handler=passthrough_redirect_handler)
    assert shown(ours, "redirected") == shown(real, "redirected") != {}


def every_type() -> CollectorRegistry:
    """Build a registry with each metric type of the client, with and without labels, and with special values."""
    registry = CollectorRegistry()
    runs = Counter("client_runs", 'Runs with a \\ and\na "second" line.', ["outcome", "host"], registry=registry)
    runs.labels("ok", 'say "hi"\n\\').inc(3)
    runs.labels("Fehlschlag: ü", "").inc(0.5)
    Counter("client_untouched", "A counter nobody counted.", registry=registry)
    level = Gauge("client_level", "Special values.", ["kind"], registry=registry)
    for kind, value in {
        "nan": "NaN",
        "up": "Inf",
        "down": "-Inf",
        "zero": "-0",
        "big": "1.7e308",
        "tiny": "5e-324",
    }.items():
        level.labels(kind).set(float(value))
    Summary("client_size_bytes", "", registry=registry).observe(1e21)
    seconds = Histogram("client_seconds", "Times.", ["step"], buckets=(0.001, 1, 2.5, 1e6), registry=registry)
    seconds.labels("load").observe(1.5)
    seconds.labels("store").observe(2e6)
    Info("client_build", "Information.", registry=registry).info({"version": "1.2/3", "branch": "größer=neu"})
    Enum("client_state", "A state.", states=["starting", "läuft", "stopped"], registry=registry).state("läuft")
    return registry


def gauge(name: str, value: float) -> CollectorRegistry:
    """Build a registry with one gauge."""
    registry = CollectorRegistry()
    Gauge(name, "A gauge.", registry=registry).set(value)
    return registry


def follow_a_group(job: str, grouping: Grouping, real: Server, ours: Server) -> None:
    """Take one group through its life on both servers; after each step they must show the same."""
    steps: tuple[tuple[Callable[[str], None], set[str]], ...] = (
        (lambda url: push_to_gateway(url, job, gauge("client_a", 1), grouping), {"client_a"}),
        (lambda url: pushadd_to_gateway(url, job, gauge("client_b", 2), grouping), {"client_a", "client_b"}),
        (lambda url: push_to_gateway(url, job, gauge("client_c", 3), grouping), {"client_c"}),
        (lambda url: delete_from_gateway(url, job, grouping), set()),
    )
    for step, names in steps:
        step(real.url)
        step(ours.url)
        want = shown(real, job)
        assert shown(ours, job) == want
        assert {name for name, _ in want if name.startswith("client_")} == names
        assert bool(want) == bool(names), "the push-time gauges end with the group"


def shown(server: Server, job: str) -> PushedSeries:
    """Give the series of `job` on /metrics."""
    # The Pushgateway carries out DELETE after its answer; a push answered after it shows that it is done.
    push_to_gateway(server.url, "barrier", CollectorRegistry())
    return {key: value for key, value in pushed_series(server.url).items() if ("job", job) in key[1]}


def metadata(server: Server) -> set[str]:
    """Give the HELP and TYPE lines of what the tests push."""
    return {line for line in lines(server) if line.startswith(("# HELP client_", "# TYPE client_"))}


def names_of_job(server: Server, job: str) -> set[str]:
    """Give the names of all series of `job`, also of those that servers have themselves."""
    return {line.partition("{")[0] for line in lines(server) if f'job="{job}"' in line}


def lines(server: Server) -> list[str]:
    """Give the lines of /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode().split("\n")
    finally:
        connection.close()


def answer(push: Callable[[], None]) -> tuple[int, str]:
    """Let the client push; give 200, or status and text of the HTTPError that it raises."""
    try:
        push()
    except HTTPError as error:
        # Left open, its socket would be a warning in whichever test runs when it is collected.
        with error:
            return error.code, error.read().decode()
    return 200, ""


def statuses_over_one_connection(server: Server) -> list[int]:
    """Send good, bad and good pushes and a delete over one connection; give the statuses."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.connect()
    socket = connection.sock
    statuses: list[int] = []

    def handler(
        url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        def send() -> None:
            assert timeout == 30
            connection.request(method, urlsplit(url).path, body=data, headers=dict(headers))
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)

        return send

    job = "one_connection"
    try:
        push_to_gateway(server.url, job, gauge("client_a", 1), {"p": "a/b"}, handler=handler)
        push_to_gateway(server.url, job, _twice({}, {}), {"p": "a/b"}, handler=handler)
        pushadd_to_gateway(server.url, job, gauge("client_b", 2), {"p": "a/b"}, handler=handler, compression="gzip")
        delete_from_gateway(server.url, job, {"p": "a/b"}, handler=handler)
        push_to_gateway(server.url, job, gauge("client_c", 3), {"p": "a/b"}, handler=handler)
        assert connection.sock is socket, "the server closed the connection in between"
    finally:
        connection.close()
    return statuses
