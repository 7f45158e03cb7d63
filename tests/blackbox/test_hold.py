"""Values stay visible for as long as they shall, and no longer: real receivers, an interval of one second, short TTLs.

The receivers' instant queries look back two seconds only, so that a repeat that is missing shows as a gap.
"""

import http.client
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from tests.blackbox.checker import Stored
from tests.blackbox.load import request, wait_for
from tests.blackbox.ports import free_port
from tests.blackbox.queries import Labels, Point, PrometheusStore, Store, VictoriaStore, now_ms, shown_ms
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.blackbox.servers import Server, agent, needs, prometheus, victoria_metrics

pytestmark = [pytest.mark.real, needs("prometheus"), needs("victoria-metrics")]

INTERVAL_MS = 1000
TTL_MS = 4000
EVERY_SECOND = "--push.hold-interval=1s"
LATE_MS = 1500
"""The agent looks at the clock every second; the rest is for a slow machine."""
RULES = f"""
push: {{default_ttl: 3s}}
rules:
  - {{match: {{job: "by_.*"}}, ttl: {TTL_MS}ms}}
  - {{match: {{job: "by_rule"}}, ttl: inf}}
"""
GAUGES = ("push_time_seconds", "push_failure_time_seconds")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run that all tests of one timeline look at."""

    stores: tuple[Store, Store]
    pushed_ms: dict[str, int]
    """First push of each job."""
    seen: list[tuple[int, str | None]]
    """When an instant query for `now` was answered, and the value of `a` of the job "held"."""
    api: str
    """`/api/v1/metrics` at the end."""


def push(server: Server, method: str, path: str, body: str = "", ttl: str | None = None) -> None:
    """Send one request, which must succeed."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with closing(connection):
        connection.request(method, f"/metrics/job/{path}", body.encode(), {"x-push-ttl": ttl} if ttl else {})
        answer = connection.getresponse()
        words = answer.read()
        assert answer.status in (200, 202), words


@pytest.fixture(scope="module")
def receivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Start both receivers; Prometheus looks back two seconds."""
    flags = "-search.latencyOffset=0s", "-search.disableCache"
    with (
        prometheus(tmp_path_factory.mktemp("prometheus"), "--query.lookback-delta=2s") as first,
        victoria_metrics(tmp_path_factory.mktemp("victoria"), *flags) as second,
    ):
        yield first, second


def targets(receivers: tuple[Server, ...]) -> str:
    """Configure delivery to the receivers."""
    blocks = [f"{{url: '{server.url}/api/v1/write', name: {server.name}}}" for server in receivers]
    return f"remote_write: [{', '.join(blocks)}]\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, receivers: tuple[Server, Server]) -> Iterator[Run]:
    """Push in all ways that there are to say how long, change some in mid-hold, and look until all is over."""
    directory = tmp_path_factory.mktemp("agent")
    flags = EVERY_SECOND, "--web.expose-groups=true"
    with agent(directory, *flags, config=targets(receivers) + RULES) as server:
        stores = PrometheusStore(receivers[0]), VictoriaStore(receivers[1])
        push(server, "PUT", "held", "a 1\n", "4s")
        push(server, "POST", "parameter?ttl=4s", "a 1\n")
        push(server, "PUT", "by_rule", "a 1\n")
        push(server, "PUT", "by_header", "a 1\n", "2s")
        push(server, "PUT", "plain", "a 1\n")
        push(server, "PUT", "once", "a 1\n", "0")
        push(server, "PUT", "forever", "a 1\n", "inf")
        push(server, "PUT", "timed", f"a 1 {now_ms() - 500}\nb 1\n", "4s")
        push(server, "PUT", "replaced", "a 1\nb 1\n", "inf")
        push(server, "PUT", "joined", "a 1\n", "inf")
        push(server, "PUT", "deleted", "a 1\n", "inf")
        jobs = "held parameter by_rule by_header plain once forever timed replaced joined deleted".split()
        pushed_ms = {job: shown_ms(server, "push_time_seconds", job) for job in jobs}
        seen: list[tuple[int, str | None]] = []
        changed = False
        while now_ms() < pushed_ms["held"] + TTL_MS + 4000:
            at_ms = now_ms()
            seen.append((at_ms, stores[0].instant("held", at_ms).get(series("a", "held"))))
            if not changed and at_ms > pushed_ms["held"] + 2300:
                push(server, "PUT", "replaced", "a 2\n", "2s")
                push(server, "POST", "joined", "b 2\n", "2s")
                push(server, "DELETE", "deleted")
                changed = True
            time.sleep(0.03)
        yield Run(stores, pushed_ms, seen, request(server.port, "GET", "/api/v1/metrics").text)


def series(name: str, job: str) -> Labels:
    """Labels of a series."""
    return (("__name__", name), ("job", job))


def ends_of_a(stored: Iterable[Stored]) -> set[Stored]:
    """Every marker of a series `a`, once if it arrived several times."""
    return {sample for sample in stored if sample.value is None and dict(sample.series)["__name__"] == "a"}


def points(store: Store, name: str, job: str) -> tuple[Point, ...]:
    """Every sample of a series."""
    return store.raw(job, repeats=True)[series(name, job)]


def check_grid(found: tuple[Point, ...], pushed_ms: int, until_ms: int) -> None:
    """One sample at the time of the push, then one at each point of the grid, none at or after the end."""
    times = [at_ms for at_ms, _ in found]
    first_ms = pushed_ms - pushed_ms % INTERVAL_MS + INTERVAL_MS
    assert times == [pushed_ms, *range(first_ms, until_ms, INTERVAL_MS)]


def test_a_query_sees_a_value_for_all_its_ttl_and_not_after(run: Run) -> None:
    """Asked again and again, Prometheus has the value from when it came until the TTL is over, and then at once not."""
    pushed_ms = run.pushed_ms["held"]
    visible = [at_ms for at_ms, value in run.seen if value is not None]
    assert {value for at_ms, value in run.seen if visible[0] <= at_ms <= visible[-1]} == {"1.0"}
    assert visible[0] < pushed_ms + LATE_MS
    assert pushed_ms + TTL_MS - 100 < visible[-1] < pushed_ms + TTL_MS + LATE_MS


@pytest.mark.parametrize(
    ("job", "ttl_ms"),
    [("held", 4000), ("parameter", 4000), ("by_rule", 4000), ("by_header", 2000), ("plain", 3000)],
)
@pytest.mark.parametrize("which", [0, 1], ids=["prometheus", "victoria-metrics"])
def test_one_original_sample_then_the_grid_then_a_marker(run: Run, which: int, job: str, ttl_ms: int) -> None:
    """The raw samples are the push to the millisecond, each point of the grid in the TTL, and one marker at its end."""
    store, pushed_ms = run.stores[which], run.pushed_ms[job]
    check_grid(points(store, "a", job), pushed_ms, pushed_ms + ttl_ms)
    ((name, (marker_ms,)),) = store.markers(job).items()
    assert name == series("a", job)
    assert pushed_ms + ttl_ms <= marker_ms < pushed_ms + ttl_ms + LATE_MS


def test_push_times_stay(run: Run) -> None:
    """What has ended can still be asked when it was pushed last; the agent shows it, and no longer lists the group."""
    at_ms = run.seen[-1][0]
    assert set(run.stores[0].instant("held", at_ms)) == {series(name, "held") for name in GAUGES}
    assert '"job":"held"' not in run.api.replace(" ", "")
    assert '"job":"forever"' in run.api.replace(" ", "")


@pytest.mark.parametrize("which", [0, 1], ids=["prometheus", "victoria-metrics"])
def test_sent_once_and_for_ever(run: Run, which: int) -> None:
    """A TTL of 0 is one sample and no marker; inf goes on."""
    store, until_ms = run.stores[which], run.seen[-1][0]
    assert points(store, "a", "once") == ((run.pushed_ms["once"], "1.0"),)
    assert store.markers("once") == store.markers("forever") == {}
    found = points(store, "a", "forever")
    assert found[-1][0] > until_ms - INTERVAL_MS - LATE_MS
    check_grid(found, run.pushed_ms["forever"], found[-1][0] + 1)


@pytest.mark.parametrize("which", [0, 1], ids=["prometheus", "victoria-metrics"])
def test_samples_with_timestamps_are_not_held(run: Run, which: int) -> None:
    """An explicit timestamp is one sample without a marker; its neighbours are held as ever."""
    store, pushed_ms = run.stores[which], run.pushed_ms["timed"]
    assert len(points(store, "a", "timed")) == 1
    assert set(store.markers("timed")) == {series("b", "timed")}
    check_grid(points(store, "b", "timed"), pushed_ms, pushed_ms + TTL_MS)


@pytest.mark.parametrize("which", [0, 1], ids=["prometheus", "victoria-metrics"])
def test_pushes_in_mid_hold(run: Run, which: int) -> None:
    """PUT, POST and DELETE take effect at once, each end has one marker, and the newest push says how long."""
    store = run.stores[which]
    second_ms = {job: round(float(points(store, GAUGES[0], job)[-1][1]) * 1000) for job in ("replaced", "joined")}
    markers = store.markers("replaced")
    assert markers[series("b", "replaced")] == (second_ms["replaced"],)
    for job, name in (("replaced", "a"), ("joined", "a"), ("joined", "b")):
        (marker_ms,) = store.markers(job)[series(name, job)]
        assert second_ms[job] + 2000 <= marker_ms < second_ms[job] + 2000 + LATE_MS
        assert all(at_ms < second_ms[job] + 2000 for at_ms, _ in points(store, name, job))
    assert {value for at_ms, value in points(store, "a", "replaced") if at_ms >= second_ms["replaced"]} == {"2.0"}
    assert {value for _, value in points(store, "a", "joined")} == {"1.0"}
    check_grid(points(store, "a", "joined"), run.pushed_ms["joined"], second_ms["joined"] + 2000)
    ended = store.markers("deleted")
    assert set(ended) == {series(name, "deleted") for name in ("a", *GAUGES)}
    assert {len(times) for times in ended.values()} == {1}
    assert all(points(store, name, "deleted")[-1][0] < ended[series(name, "deleted")][0] for name in ("a", *GAUGES))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_in_mid_hold(how: Literal["stop", "kill"], tmp_path: Path, receivers: tuple[Server, Server]) -> None:
    """No marker, the same grid, and no gap longer than the agent was away and an interval."""
    store, job, config = PrometheusStore(receivers[0]), f"restart_{how}", targets(receivers[:1])

    def held() -> tuple[Point, ...]:
        return store.raw(job, repeats=True).get(series("a", job), ())

    with agent(tmp_path, EVERY_SECOND, config=config) as first:
        push(first, "PUT", job, "a 1\n", "1h")
        wait_for(held, lambda found: len(found) > 2)
        away_ms = now_ms()
        getattr(first, how)()
    with agent(tmp_path, EVERY_SECOND, config=config):
        away_ms = now_ms() - away_ms
        before = len(held())
        found = wait_for(held, lambda found: len(found) > before + 2)
    assert all(at_ms % INTERVAL_MS == 0 for at_ms, _ in found[1:])
    assert max(after - before for (before, _), (after, _) in pairwise(found)) <= away_ms + INTERVAL_MS
    assert store.markers(job) == {}


GROUPS = 2000
KILLS_AT = 0.05, 0.3, 0.6
"""Shares of the groups whose end is in the journal when the agent is killed; it goes on a little until it is dead."""


def test_kills_in_the_midst_of_an_expiry(tmp_path: Path) -> None:
    """An agent that is killed again and again while thousands of groups expire writes one marker for each series."""
    receiver, port = ScriptedReceiver(up=False), free_port()
    config = receiver.config
    with (
        agent(tmp_path, config=config, port=port) as server,
        closing(http.client.HTTPConnection("127.0.0.1", port)) as http_,
    ):
        for number in range(GROUPS):
            http_.request("PUT", f"/metrics/job/j{number}?ttl=3s", b"a 1\n")
            assert http_.getresponse().read() == b""
        server.kill()
    journal = sqlite3.connect(f"file:{tmp_path / 'storage' / 'journal.db'}?mode=ro", uri=True)

    def ends() -> Counter[bytes]:
        return Counter(grp for (grp,) in journal.execute("SELECT grp FROM journal WHERE operation = 'expire'"))

    def arrived() -> set[Stored]:
        return ends_of_a(receiver.stored())

    partly = 0
    with closing(journal), receiver:
        for share in KILLS_AT:
            server = agent(tmp_path, config=config, port=port)
            wait_for(ends, lambda found, share=share: len(found) > share * GROUPS)  # type: ignore[misc]
            server.kill()
            partly += len(ends()) < GROUPS
        with agent(tmp_path, config=config, port=port):
            wait_for(ends, lambda found: len(found) == GROUPS)
            receiver.start()
            wait_for(arrived, lambda found: len({s.series for s in found}) == GROUPS)
        assert partly, "the agent was never killed in the midst"
        assert set(ends().values()) == {1}
        assert len(arrived()) == GROUPS
        assert all(sample.value is not None for sample in receiver.stored() if dict(sample.series)["__name__"] != "a")


def test_a_receiver_that_was_down(tmp_path: Path) -> None:
    """It gets the journal first, with the times of the pushes, then only the newest point of the grid."""
    receiver = ScriptedReceiver(up=False)
    config = f"remote_write: [{{url: '{receiver.url}', name: target, queue_config: {{max_backoff: 100ms}}}}]\n"
    with agent(tmp_path, EVERY_SECOND, "--web.expose-groups=true", config=config) as server, receiver:
        push(server, "PUT", "down", "a 1\n", "1h")
        first_ms = shown_ms(server, "push_time_seconds", "down")
        time.sleep(1.2)
        push(server, "PUT", "down", "a 2\n", "1h")
        time.sleep(2.2)
        up_ms = now_ms()
        receiver.start()

        def of_a() -> list[Stored]:
            return [sample for sample in receiver.stored(repeats=True) if sample.series == series("a", "down")]

        found = wait_for(of_a, lambda found: len(found) >= 4)
    assert found[0].timestamp_ms == first_ms
    assert [sample.value for sample in found[:3]] == [1.0, 2.0, 2.0]
    assert found[1].timestamp_ms > first_ms
    repeats = [sample.timestamp_ms for sample in found[2:]]
    assert up_ms - INTERVAL_MS - LATE_MS < repeats[0]
    assert repeats == list(range(repeats[0], repeats[-1] + 1, INTERVAL_MS))


def test_repeats_that_fail_come_again_as_they_were(tmp_path: Path) -> None:
    """Through lost answers, errors and pauses each series only goes forward, and ends once."""
    chance = random.Random(7)
    steps = (Step(), Step(), Step(status=500), Step(status=429, headers=("Retry-After: 0",)), Step(status=204, raw=b""))
    script = [chance.choice([*steps, Step(resets_at=0.5), Step(raw=b"", keeps=True)]) for _ in range(60)]
    with ScriptedReceiver(*script) as receiver:
        config = f"remote_write: [{{url: '{receiver.url}', name: target, queue_config: {{max_backoff: 50ms}}}}]\n"
        with agent(tmp_path, EVERY_SECOND, config=config) as server:
            for number in range(30):
                push(server, "PUT", f"j{number % 3}", f"a {number}\nb 1\n" if number % 2 else f"a {number}\n", "2s")
                time.sleep(0.1)
            wait_for(lambda: ends_of_a(receiver.stored()), lambda found: len({end.series for end in found}) == 3)
        stored = receiver.stored()
    newest: dict[Labels, tuple[int, float | None]] = {}
    for sample in stored:
        point = sample.timestamp_ms, sample.value
        before = newest.setdefault(sample.series, point)
        assert point == before or sample.timestamp_ms > before[0], f"{sample} came after {before}"
        newest[sample.series] = point
    assert len(ends_of_a(stored)) == 3
