"""A restart storm: agent and both receivers are killed at random while pushes go on, and nothing is lost or mixed up.

One target is a real Prometheus, which refuses what is out of order; the other is slow and refuses what asks for it.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.blackbox.books import accepted_in
from tests.blackbox.checker import Fault, Pushed, Stored, judge, missing
from tests.blackbox.embedded import slow_receiver, stored_in
from tests.blackbox.load import Account, Load, Push, accounts, mixed, noise, numbers, one_value, wait_for
from tests.blackbox.poison import letters_in, poisoned, samples_of
from tests.blackbox.ports import free_port
from tests.blackbox.queries import PrometheusStore
from tests.blackbox.scripted_receiver import refused_with
from tests.blackbox.servers import Server, agent, kill_while_starting, needs, prometheus
from tests.blackbox.storm import Victim, Watcher, storm

pytestmark = [pytest.mark.real, needs("prometheus")]

SECONDS = float(os.environ.get("PUSHBRIDGE_TEST_STORM_S", "6"))
SEED = int(os.environ.get("PUSHBRIDGE_TEST_STORM_SEED", "20261004"))
WRITERS = 8
PAUSE_S = 0.005
DELAY_S = 0.05
LONG_DELAY_S = 0.4
POISON_EVERY = 100
INTERVAL_MS = 1000
DRAIN_WITHIN_S = 30 + SECONDS
QUEUE = "queue_config: {min_backoff: 20ms, max_backoff: 300ms"
# A request in which something is refused takes many: short lives must be long enough to bring one to its end.
SOME_AT_ONCE = ", max_samples_per_send: 200"
FEW_AT_ONCE = ", max_samples_per_send: 50, capacity: 100, max_shards: 1"
SMALL_JOURNAL = "storage: {max_bytes: 1MiB, when_full: drop_oldest}\n"


def small(writer: int, number: int) -> Push:
    """Push to groups of one writer and of several, with series that end, and at times with one that is refused."""
    return poisoned(writer, number, POISON_EVERY) if writer % 3 == 2 else mixed(writer, number)


def large(writer: int, number: int) -> Push:
    """Push what fills a journal soon, and at times what is refused."""
    if writer % 3 == 2:
        return poisoned(writer, number, POISON_EVERY)
    return one_value(f"bulk-{writer}", number, padding=noise(20_000, WRITERS * number + writer))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there is when a storm is over and all is drained."""

    log: list[Pushed]
    accounts: Mapping[str, Account]
    stored: Mapping[str, list[Stored]]
    """By target: what Prometheus has, series by series in order of time, and what the slow one has as it arrived."""
    watcher: Watcher
    kills: Mapping[str, int]


def run(
    tmp_path: Path,
    plan: Callable[[int, int], Push],
    seconds: float,
    *,
    drops: bool = False,
    agent_dies: bool = True,
) -> Outcome:
    """Let a storm pass and wait until both targets have what there is for them."""
    ports = {name: free_port() for name in ("agent", "prometheus", "slow")}
    urls = {name: f"http://127.0.0.1:{port}/api/v1/write" for name, port in ports.items()}
    config = (
        f"remote_write:\n- {{url: '{urls['prometheus']}', name: prometheus, {QUEUE}}}}}\n"
        f"- {{url: '{urls['slow']}', name: slow, {QUEUE}{FEW_AT_ONCE if drops else SOME_AT_ONCE}}}}}\n"
        f"push: {{hold_interval: {INTERVAL_MS}ms}}\n{SMALL_JOURNAL if drops else ''}"
    )
    delay_s = LONG_DELAY_S if drops else DELAY_S
    watcher = Watcher(ports["agent"], tmp_path, drops)
    start = partial(agent, tmp_path, config=config, port=ports["agent"])
    flash = partial(kill_while_starting, tmp_path, config=config, port=ports["agent"])
    victims = [
        Victim("agent", start, 3.0, 0.3, lambda after_s: flash(after_s=after_s), watcher.look_at_the_dead, agent_dies),
        Victim("prometheus", partial(prometheus, tmp_path / "prometheus", port=ports["prometheus"]), 4.0, 1.0),
        Victim("slow", partial(slow_receiver, tmp_path / "slow", ports["slow"], delay_s), 3.0, 1.0),
    ]
    with (
        Load(ports["agent"], writers=WRITERS, plan=plan, pause_s=PAUSE_S) as load,
        watcher.watching(),
        storm(victims, seconds, SEED, lambda: not drops or watcher.has_dropped("slow")) as servers,
    ):
        load.stop()
        final = wait_for(lambda: accounts(ports["agent"]), drained, DRAIN_WITHIN_S)
        by_name = {server.name: server for server in servers}
        assert by_name["pushbridge"].stop() == 0
        in_prometheus = list(stored_by(by_name["prometheus"], load.log()))
    watcher.look_at_the_dead()
    stored = {"prometheus": in_prometheus, "slow": without_own(stored_in(tmp_path / "slow"))}
    kills = {victim.name: victim.kills for victim in victims}
    outcome = Outcome(load.log(), final, stored, watcher, kills)
    tell(outcome)
    return outcome


def drained(found: Mapping[str, Account]) -> bool:
    return {account.pending for account in found.values()} == {0}


def tell(outcome: Outcome) -> None:
    """Print the figures of a run, which pytest shows with a failure."""
    fates = [entry.fate for entry in outcome.log]
    figures = {
        "PUSHBRIDGE_TEST_STORM_SEED": SEED,
        "kills": dict(outcome.kills),
        "scrapes, looks at the file": (outcome.watcher.scrapes, outcome.watcher.looks),
        "values pushed": {fate: fates.count(fate) for fate in sorted(set(fates))},
        "stored": {target: len(stored) for target, stored in outcome.stored.items()},
        "accounts": dict(outcome.accounts),
    }
    print(*(f"{name}: {figure}" for name, figure in figures.items()), sep="\n")  # noqa: T201


def stored_by(server: Server, log: Iterable[Pushed]) -> Iterable[Stored]:
    """Everything that Prometheus has of the jobs that were pushed, with markers."""
    store = PrometheusStore(server)
    for job in sorted({dict(entry.series)["job"] for entry in log}):
        points: dict[tuple[tuple[str, str], ...], list[tuple[int, float | None]]] = {}
        for series, found in store.raw(job, repeats=True).items():
            points.setdefault(series, []).extend((at_ms, float(value)) for at_ms, value in found)
        for series, times in store.markers(job).items():
            points.setdefault(series, []).extend((at_ms, None) for at_ms in times)
        for series, line in points.items():
            yield from (Stored(series, at_ms, value) for at_ms, value in sorted(line, key=lambda point: point[0]))


def without_own(stored: Iterable[Stored]) -> list[Stored]:
    """Leave out what the agent says of itself."""
    return [sample for sample in stored if dict(sample.series)["job"] != "pushbridge"]


def faults_of(outcome: Outcome) -> dict[str, list[Fault]]:
    """Judge what each target has."""
    rewinds = outcome.kills["agent"] + outcome.kills["slow"]
    return {
        "prometheus": judge(outcome.log, logged(outcome.stored["prometheus"])),
        "slow": judge(outcome.log, logged(outcome.stored["slow"]), max_rewinds=rewinds),
    }


def journaled(stored: Iterable[Stored]) -> list[Stored]:
    """Leave out what is only repeated on the grid: a group whose push time is that of the point was pushed to then."""
    stored = list(stored)
    pushes = {
        (_group(sample), sample.timestamp_ms)
        for sample in stored
        if dict(sample.series)["__name__"] == "push_time_seconds"
        and sample.value is not None
        and round(sample.value * 1000) == sample.timestamp_ms
    }
    return [
        sample
        for sample in stored
        if sample.timestamp_ms % INTERVAL_MS or sample.value is None or (_group(sample), sample.timestamp_ms) in pushes
    ]


def _group(sample: Stored) -> tuple[str, str | None]:
    labels = dict(sample.series)
    return labels["job"], labels.get("instance")


def logged(stored: Iterable[Stored]) -> list[Stored]:
    """Leave out as well what no log has: padding, and what asks to be refused and was not."""
    return numbers(sample for sample in journaled(stored) if not refused_with(sample))


def test_nothing_is_lost_in_a_storm(tmp_path: Path) -> None:
    """Both targets have all that was acknowledged, in order, and each sample that was accepted has one fate."""
    outcome = run(tmp_path, small, SECONDS)
    assert outcome.watcher.faults == []
    assert {target: faults[:5] for target, faults in faults_of(outcome).items() if faults} == {}
    accepted = accepted_in(tmp_path)
    assert len(set(accepted)) == len(accepted)
    for target, stored in outcome.stored.items():
        account, has = outcome.accounts[target], set(journaled(stored))
        letters = [letter for letter in letters_in(tmp_path) if letter.target == target]
        refused = [sample for letter in letters for sample in samples_of(letter)]
        assert (account.accepted, account.pending, account.dropped) == (len(accepted), 0, {})
        assert account.delivered == len(set(accepted) - set(refused))
        assert sum(account.dead_lettered.values()) == len(refused) == len(set(refused))
        if target == "slow":
            assert set(refused) == set(accepted) - has == {sample for sample in accepted if refused_with(sample)}
        else:
            # It refuses what it has from one who did not live to know.
            assert (set(accepted), {letter.maybe_stored for letter in letters} - {True}) == (has, set())


@pytest.mark.parametrize("agent_dies", [True, False], ids=["all_die", "receivers_die"])
def test_what_a_storm_drops_is_counted(tmp_path: Path, *, agent_dies: bool) -> None:
    """With a journal that drops the oldest, what a target lacks is counted as dropped there, and the rest in order."""
    outcome = run(tmp_path, large, SECONDS / 2, drops=True, agent_dies=agent_dies)
    assert outcome.watcher.faults == []
    faults = faults_of(outcome)
    for target, stored in outcome.stored.items():
        account, has = outcome.accounts[target], set(journaled(stored))
        maybe = {sample for letter in letters_in(tmp_path) if letter.maybe_stored for sample in samples_of(letter)}
        dropped = account.dropped.get("journal_full", 0)
        assert (account.balanced, account.pending, sum(account.dropped.values())) == (True, 0, dropped)
        assert {fault.kind for fault in faults[target]} <= {"missing", "marker"}
        assert len(missing(outcome.log, has)) <= dropped
        if agent_dies:
            # What one sent and did not live to tell of, another may have dropped.
            assert account.delivered <= len(has)
        else:
            assert account.delivered == len(has - maybe)
    assert outcome.accounts["slow"].dropped, "the journal never got full"
