"""Agent and receiver are killed again and again under load; a separate checker says whether anything was lost."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.blackbox.checker import Fate, Kind, Pushed, Series, Stored, judge, without_repeats
from tests.blackbox.embedded import receiver, stored_in
from tests.blackbox.load import Load, account, series, settled_account
from tests.blackbox.ports import free_port
from tests.blackbox.servers import Server, agent, kill_while_starting

SEED = int(os.environ.get("CRASH_SEED", "20260514"))
KILLS = 22
KILLS_WHILE_STARTING = 4
RECEIVER_KILLS = 6
LONGEST_LIFE_S = 0.5

A = series("a", job="j")
B = series("b", job="j")
PUSH_TIME = series("push_time_seconds", job="j")


def pushed(*values: float | None, of: Series = A, fate: Fate = "acknowledged") -> list[Pushed]:
    """Make a log of pushes to one series."""
    return [Pushed(of, value, fate) for value in values]


def stored(*points: tuple[int, float | None], of: Series = A) -> list[Stored]:
    """Make arrivals of one series."""
    return [Stored(of, timestamp_ms, value) for timestamp_ms, value in points]


ONE_TWO_THREE = stored((10, 1), (20, 2), (30, 3))
GOOD: dict[str, tuple[list[Pushed], list[Stored], int]] = {
    "nothing": ([], [], 0),
    "all there": (pushed(1, 2, 3), ONE_TWO_THREE, 0),
    "unanswered and there": (pushed(1) + pushed(2, fate="unanswered") + pushed(3), ONE_TWO_THREE, 0),
    "unanswered and not there": (pushed(1) + pushed(2, fate="unanswered"), stored((10, 1)), 0),
    "refused and not there": (pushed(1) + pushed(2, fate="refused"), stored((10, 1)), 0),
    "repeated in full": (pushed(1, 2, 3), stored((10, 1), (20, 2)) + ONE_TWO_THREE, 1),
    "repeated in part": (pushed(1, 2, 3), stored((10, 1), (20, 2)) + ONE_TWO_THREE[1:], 1),
    "repeated twice": (pushed(1, 2, 3), ONE_TWO_THREE[:2] + ONE_TWO_THREE[:2] + ONE_TWO_THREE, 2),
    "ended": (pushed(1, None), stored((10, 1), (20, None)), 0),
    "ended and back": (pushed(1, None, 2), stored((10, 1), (20, None), (30, 2)), 0),
    "ended when not there": (pushed(None, 1), stored((10, 1)), 0),
    "ended twice": (pushed(1, None, None, 2), stored((10, 1), (20, None), (30, 2)), 0),
    "end unanswered and taken": (
        pushed(1) + pushed(None, fate="unanswered") + pushed(2),
        stored((10, 1), (20, None), (30, 2)),
        0,
    ),
    "end unanswered and lost": (pushed(1) + pushed(None, fate="unanswered") + pushed(2), stored((10, 1), (20, 2)), 0),
    "two series": (pushed(1, 2) + pushed(2, 1, of=B), stored((10, 1), (20, 2)) + stored((5, 2), (15, 1), of=B), 0),
    "series of the agent": (pushed(1), stored((10, 1)) + stored((10, 0.01), (20, 0.02), of=PUSH_TIME), 0),
}
BAD: dict[str, tuple[list[Pushed], list[Stored], set[Kind]]] = {
    "first missing": (pushed(1, 2, 3), ONE_TWO_THREE[1:], {"missing"}),
    "last missing": (pushed(1, 2, 3), ONE_TWO_THREE[:2], {"missing"}),
    "all missing": (pushed(1), [], {"missing"}),
    "missing in another series": (pushed(1) + pushed(1, of=B), stored((10, 1)), {"missing"}),
    "arrived too late": (pushed(1, 2, 3), stored((10, 1), (30, 3), (20, 2)), {"reordered"}),
    "times exchanged": (pushed(1, 2, 3), stored((10, 1), (20, 3), (30, 2)), {"reordered"}),
    "repeated once too often": (pushed(1, 2), stored((10, 1), (20, 2), (10, 1), (20, 2), (10, 1)), {"repeated"}),
    "repeated at once": (pushed(1, 2), stored((10, 1), (10, 1), (10, 1), (20, 2)), {"repeated"}),
    "repeated with a gap": (pushed(1, 2, 3), [*ONE_TWO_THREE, ONE_TWO_THREE[0], ONE_TWO_THREE[2]], {"reordered"}),
    "new before the repeats are over": (pushed(1, 2, 3), stored((10, 1), (20, 2), (10, 1), (30, 3)), {"reordered"}),
    "repeated with another value": (pushed(1, 2), stored((10, 1), (20, 2), (10, 2), (20, 2)), {"altered"}),
    "repeated with another time": (pushed(1, 2), stored((10, 1), (20, 2), (21, 2)), {"repeated"}),
    "altered": (pushed(1, 2, 3), stored((10, 1), (20, 7), (30, 3)), {"missing", "unknown"}),
    "never pushed": (pushed(1), stored((10, 1), (20, 2)), {"unknown"}),
    "series never pushed": (pushed(1), stored((10, 1)) + stored((10, 1), of=B), {"unknown"}),
    "refused and there": (pushed(1) + pushed(2, fate="refused"), stored((10, 1), (20, 2)), {"unknown"}),
    "marker for nothing": (pushed(1, 2), stored((10, 1), (15, None), (20, 2)), {"marker"}),
    "marker at the end for nothing": (pushed(1), stored((10, 1), (20, None)), {"marker"}),
    "marker for a refused end": (
        pushed(1) + pushed(None, fate="refused"),
        stored((10, 1), (20, None)),
        {"marker"},
    ),
    "marker missing": (pushed(1, None, 2), stored((10, 1), (20, 2)), {"marker"}),
    "two markers": (pushed(1, None, None, 2), stored((10, 1), (20, None), (21, None), (30, 2)), {"marker"}),
    "marker before the series began": (pushed(None, 1), stored((5, None), (10, 1)), {"marker"}),
    "series of the agent ended": (pushed(1), stored((10, 1)) + stored((10, 1), (20, None), of=PUSH_TIME), {"marker"}),
    "series of the agent altered": (
        [],
        stored((10, 1), (20, 2), (10, 2), (20, 2), of=PUSH_TIME),
        {"altered"},
    ),
}


@pytest.mark.parametrize(("log", "arrivals", "max_rewinds"), GOOD.values(), ids=GOOD)
def test_checker_finds_no_fault(log: list[Pushed], arrivals: list[Stored], max_rewinds: int) -> None:
    """A run in which every promise was kept has no faults."""
    assert judge(log, arrivals, max_rewinds=max_rewinds) == []


@pytest.mark.parametrize(("log", "arrivals", "kinds"), BAD.values(), ids=BAD)
def test_checker_finds_the_fault(log: list[Pushed], arrivals: list[Stored], kinds: set[Kind]) -> None:
    """A broken promise is found, and named as what it is, also where one rewind is allowed."""
    assert {fault.kind for fault in judge(log, arrivals, max_rewinds=1)} == kinds


def test_checker_finds_any_single_change() -> None:
    """Taking out, altering, moving or exchanging any one sample of a good run is found."""
    log = [Pushed(of, float(n)) for n in range(12) for of in (A, B)]
    arrivals = [Stored(entry.series, 10 * at, entry.value) for at, entry in enumerate(log)]
    assert judge(log, arrivals) == []
    for at in range(len(arrivals)):
        for what, changed in single_changes(arrivals, at):
            assert judge(log, changed), f"{what}: sample {at}"


def single_changes(arrivals: list[Stored], at: int) -> Iterator[tuple[str, list[Stored]]]:
    """Give what becomes of a run of two series in turn when the sample at `at` is changed."""
    before, sample, after = arrivals[:at], arrivals[at], arrivals[at + 1 :]
    yield "taken out", before + after
    yield "altered", [*before, replace(sample, value=0.5), *after]
    yield "made stale", [*before, replace(sample, value=None), *after]
    if at > 1:
        yield "set back in time", [*before, replace(sample, timestamp_ms=sample.timestamp_ms - 21), *after]
    if len(after) > 1:
        yield "moved to the end", [*before, *after, sample]
        yield "exchanged with the next", [*before, after[1], after[0], sample, *after[2:]]


def test_checker_wants_distinct_values() -> None:
    """A log from which nothing could be told is refused."""
    with pytest.raises(ValueError, match="sent a value twice"):
        judge(pushed(1, 1), [])


@contextmanager
def killed_at_the_end(server: Server) -> Iterator[Server]:
    """End a server with SIGKILL, whatever happens."""
    try:
        yield server
    finally:
        server.kill()


def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path) -> None:
    """Whatever was answered 200 arrives once and in order, though agent and receiver are killed at any moment."""
    print(f"CRASH_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    moments = random.Random(SEED)
    agent_port, receiver_port = free_port(), free_port()
    url = f"http://127.0.0.1:{receiver_port}/api/v1/write"
    flag = f"--remote-write.url={url}"
    plan = ["receiver"] * RECEIVER_KILLS + ["start"] * KILLS_WHILE_STARTING
    plan += ["agent"] * (KILLS - len(plan))
    moments.shuffle(plan)
    receiving = receiver(tmp_path / "receiver", receiver_port)
    with ExitStack() as stack:
        stack.callback(lambda: receiving.kill())  # noqa: PLW0108 - the one that runs by then
        load = stack.enter_context(Load(agent_port))
        for victim in plan:
            if victim == "start":
                kill_while_starting(tmp_path, flag, port=agent_port, after_s=moments.uniform(0.2, 0.8))
                continue
            with killed_at_the_end(agent(tmp_path, flag, port=agent_port)):
                acknowledged = sum(entry.value is not None and entry.fate == "acknowledged" for entry in load.log())
                now = account(agent_port)
                assert now.balanced
                assert now.accepted >= acknowledged
                time.sleep(moments.uniform(0, LONGEST_LIFE_S))
                if victim == "receiver":
                    receiving.kill()
                    time.sleep(moments.uniform(0, LONGEST_LIFE_S))
            if victim == "receiver":
                receiving = receiver(tmp_path / "receiver", receiver_port)
        last = stack.enter_context(agent(tmp_path, flag, port=agent_port))
        load.stop()
        final = settled_account(agent_port)
        assert (last.stop(), receiving.process.poll()) == (0, None)
    stored = list(stored_in(tmp_path / "receiver"))
    arrivals = without_repeats(stored)
    faults = judge(load.log(), arrivals, max_rewinds=KILLS + RECEIVER_KILLS)
    assert not faults, f"{len(faults)} faults, the first: {faults[:10]}"
    assert load.acknowledged() > KILLS
    assert final.balanced
    assert (final.pending, final.dropped) == (0, {})
    points, all_points = ({(sample.series, sample.timestamp_ms) for sample in some} for some in (arrivals, stored))
    # What was pushed in the very millisecond of a point of the grid looks like a repeat when its value is the same.
    assert len(points) <= final.accepted <= len(all_points)
