"""Pushes reach Mimir and Thanos Receive as they reach Prometheus; what these refuse costs nobody else anything."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.blackbox.compliance import MESSAGES
from tests.blackbox.fleets import TENANT, Fleet, mimir, thanos
from tests.blackbox.load import metrics, request, settled_account
from tests.blackbox.oracle_requests import PROTOBUF, Request
from tests.blackbox.poison import letters_in
from tests.blackbox.queries import Labels, Point, latest, now_ms, poll
from tests.blackbox.servers import Server, agent, needs
from tests.blackbox.test_dead_letters import QUICK, push_bad_times, stored_values, values_of
from tests.blackbox.test_native import OLD_EXEMPLARS
from tests.blackbox.test_oracle import send
from tests.blackbox.test_receivers import CASES, FIRST, FIRST_BODY, expected, push

pytestmark = pytest.mark.real

STARTERS = {"mimir": mimir, "thanos": thanos}
EXTERNAL = "global: {external_labels: {cluster: eu1, site: Zürich/2}}\nweb: {expose_groups: true}\n"
EACH = [pytest.param(name, marks=needs(name)) for name in STARTERS]
IN_EACH_VERSION = [
    pytest.param((name, version), marks=needs(name), id=f"{name}-{version}")
    for name in STARTERS
    for version in MESSAGES
]
WINDOWS = {"mimir": "-ingester.out-of-order-time-window=10m", "thanos": "--tsdb.out-of-order.time-window=10m"}
EXEMPLARS = {"mimir": "-ingester.max-global-exemplars-per-user=1000", "thanos": "--tsdb.max-exemplars=1000"}
REFUSED_WITH = {"mimir": 400, "thanos": 409}
LONG = "é" * 2000


@dataclass(frozen=True, slots=True)
class Pair:
    """A receiver and an agent that writes to it."""

    fleet: Fleet
    agent: Server


@pytest.fixture(scope="module", params=IN_EACH_VERSION)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Run both; a receiver that does not know 2.0 makes the agent fall back."""
    name, version = request.param
    tmp = tmp_path_factory.mktemp(name)
    with STARTERS[name](tmp / name) as fleet:
        config = EXTERNAL + fleet.target(f"protobuf_message: {MESSAGES[version]}")
        with agent(tmp / "agent", config=config) as server:
            yield Pair(fleet, server)


@pytest.mark.parametrize("name", CASES)
def test_a_push_arrives_exactly(name: str, pair: Pair) -> None:
    """Every series arrives with just its labels and value, at the push's millisecond or at its own."""
    case, store = CASES[name], pair.fleet.store
    push_ms = push(pair.agent, name, case.body, case.headers, case.grouping)
    want = unsigned(expected(case.want, name, push_ms, store, case.grouping_labels))
    assert poll(lambda: unsigned(store.raw(name)), want) == want


def unsigned(raw: dict[Labels, tuple[Point, ...]]) -> dict[Labels, tuple[Point, ...]]:
    """The same without minus signs at zeros: Mimir's answers have none."""
    return {
        labels: tuple((at_ms, "0.0" if value == "-0.0" else value) for at_ms, value in points)
        for labels, points in raw.items()
    }


def test_what_is_deleted_is_gone_at_once(pair: Pair) -> None:
    """An instant query finds the series before the DELETE, and nothing after it."""
    store, job = pair.fleet.store, "deleted"
    push_ms = push(pair.agent, job, FIRST_BODY)
    before = latest(expected(FIRST, job, push_ms, store))
    assert poll(lambda: store.instant(job, now_ms()), before) == before
    assert request(pair.agent.port, "DELETE", f"/metrics/job/{job}").status == 202
    nothing: dict[Labels, str] = {}
    assert poll(lambda: store.instant(job, now_ms()), nothing) == nothing


@pytest.mark.parametrize("version", MESSAGES)
@pytest.mark.parametrize("name", EACH)
def test_no_neighbour_pays(name: str, version: str, tmp_path: Path) -> None:
    """All good samples are there; what is too old, or a second value for a time, is a dead letter, and no more is."""
    with STARTERS[name](tmp_path / name, WINDOWS[name]) as fleet:
        pushed = push_bad_times(tmp_path, fleet.target(f"protobuf_message: {MESSAGES[version]}", QUICK))
        assert poll(lambda: stored_values(fleet.store), pushed.good) == pushed.good
    assert values_of(pushed.letters) == sorted([*pushed.duplicates, *pushed.old])
    assert pushed.account.dead_lettered == {f"http_{REFUSED_WITH[name]}": 20}


@pytest.mark.parametrize("version", MESSAGES)
@pytest.mark.parametrize("name", EACH)
def test_an_exemplar_that_is_too_old_costs_no_sample(name: str, version: str, tmp_path: Path) -> None:
    """Whatever the receiver says to it, the pushes are delivered, their histograms are there, and no letter is dead."""
    with STARTERS[name](tmp_path / name, EXEMPLARS[name]) as fleet:
        keys = (f"protobuf_message: {MESSAGES[version]}", "send_exemplars: true", "send_native_histograms: true")
        with agent(tmp_path / "agent", config=fleet.target(*keys)) as server:
            for _ in range(3):
                status, text = send(Request("PUT", "/metrics/job/old?wait=delivered", OLD_EXEMPLARS, PROTOBUF), server)
                assert status == 200, text
            final = settled_account(server.port)
            found = poll(lambda: counted(fleet), ["3"])
    assert (final.delivered, final.dead_lettered) == (final.accepted, {})
    assert found == ["3"]


def counted(fleet: Fleet) -> list[str]:
    """How many histograms the receiver has of each series `x`."""
    return [one["value"][1] for one in fleet.store.query('count_over_time(x{job="old"}[1h])', now_ms())]


@needs("mimir")
@pytest.mark.parametrize("version", MESSAGES)
def test_what_mimir_finds_too_long(version: str, tmp_path: Path) -> None:
    """A label value beyond Mimir's limit is a dead letter with Mimir's words; the series beside it are there."""
    with mimir(tmp_path / "mimir") as fleet:
        config = fleet.target(f"protobuf_message: {MESSAGES[version]}", QUICK)
        with agent(tmp_path, config=config) as server:
            for number in range(1, 11):
                body = f'good {number}\nlong{{v="{LONG}"}} {number}\n'
                assert request(server.port, "POST", "/metrics/job/bad", body.encode()).status == 200
            final = settled_account(server.port)
            seen = metrics(server.port)
            assert server.stop() == 0
        good = [float(number) for number in range(1, 11)]
        assert poll(lambda: stored_values(fleet.store), good) == good
    letters = letters_in(tmp_path)
    assert values_of(letters) == good
    assert all("err-mimir-label-value-too-long" in letter.words for letter in letters)
    assert (final.balanced, final.pending, final.dead_lettered) == (True, 0, {"http_400": 10})
    assert seen[f'pushbridge_target_protocol{{target="target",version="{version}"}}'] == 1


@needs("mimir")
def test_a_tenant_over_its_rate_at_mimir(tmp_path: Path) -> None:
    """While Mimir throttles one tenant another gets its pushes at once; the throttled one gets its own later."""
    limits = tmp_path / "limits.yml"
    limits.write_text("overrides: {noisy: {ingestion_rate: 2000, ingestion_burst_size: 2000}}\n", encoding="utf-8")
    rules = 'web: {expose_groups: true}\nrules: [{match: {team: ".+"}, tenant: "{team}"}]\n'
    with mimir(tmp_path / "mimir", f"-runtime-config.file={limits}") as fleet:
        config = rules + fleet.target("queue_config: {capacity: 2000, max_samples_per_send: 1000}")
        with agent(tmp_path / "agent", config=config) as server:
            body = "".join(f'filling{{part="{part}"}} 1\n' for part in range(100)).encode()
            for number in range(150):
                assert request(server.port, "PUT", f"/metrics/job/j{number}/team/noisy", body).status == 200
            push_ms = push(server, "quiet", b"numbered 1\n", grouping=f"/team/{TENANT}")
            assert poll(lambda: (push_ms, "1.0") in sum(fleet.store.raw("quiet").values(), ()), True)
            waiting = metrics(server.port)['pushbridge_samples_pending{target="target"}']
            final = settled_account(server.port, within_s=100)
    assert waiting > 5000
    assert (final.left_over, final.pending, final.dead_lettered, final.dropped) == (0, 0, {}, {})
    assert "status=429" in server.log_tail(100_000)
