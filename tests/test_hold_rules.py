"""Repeats of a target that has relabeling rules or tenants."""

from collections.abc import Callable

import pytest

from bridge.config.relabel import RelabelConfig
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules
from bridge.groups import labels_of_key
from bridge.hold import TargetHold, Tick
from bridge.registry import Groups
from bridge.wire.head import make_head
from bridge.wire.remote_write import label_bytes, value_bytes
from tests.made import turn
from tests.test_hold import AT_MS, pushed, samples

DROP_GAUGES = RelabelConfig(source_labels=("__name__",), regex="push_.*", action="drop")
NO_JOB = RelabelConfig(regex="job", action="labeldrop")


def job_of(key: bytes) -> str:
    """The job is the tenant, but for those that begin with "none"."""
    job = dict(labels_of_key(key))["job"]
    return "" if job.startswith("none") else job[0]


def requests(
    jobs: dict[str, str], max_samples: int, *configs: RelabelConfig, tenant_of: Callable[[bytes], str] | None = None
) -> list[tuple[str, list[str]]]:
    """Tenant and names (with the job) of each request of one round, empty ones too."""
    groups = Groups()
    groups.publish([pushed(body, job=job) for job, body in jobs.items()])
    tick = Tick()
    own = [("", ([make_head(label_bytes([("__name__", "up")]))], [value_bytes(1)]))]
    own.append(("a", ([make_head(label_bytes([("__name__", "overdue")]))], [value_bytes(1)])))
    rules = TargetRules(Relabeler(configs).relabel if configs else None, tenant_of)
    hold = TargetHold(groups, lambda: tick, max_samples, lambda _: own[: 2 if tenant_of else 1], rules)
    tick = Tick(AT_MS, 0, tuple(group.id.key for group in groups.live()))
    found = []
    while (request := hold.request(turn(0, drained=True))) is not None:
        again = hold.request(turn(0, drained=True))
        assert again == request, "a request stays until it is sent"
        assert request.samples <= max_samples
        found.append((request.tenant, [f"{job}:{name}" for job, name, _ in samples(request)]))
        hold.sent()
        assert len(found) < 200, "the round does not end"
    return found


def test_repeats_are_relabeled() -> None:
    """What rules drop is not repeated, the agent's own series among it, and requests are filled with what is left."""
    jobs = dict.fromkeys("xyz", "m 1\n")
    assert requests(jobs, 3, DROP_GAUGES) == [("", [":up", "x:m", "y:m"]), ("", ["z:m"])]
    drop_up = RelabelConfig(source_labels=("__name__",), regex="up", action="drop")
    assert requests({"x": "m 1\n"}, 9, DROP_GAUGES, drop_up) == [("", ["x:m"])]


def test_a_large_group_is_relabeled_piece_by_piece() -> None:
    """No sample of a group that fills many requests is left out or comes twice."""
    body = "".join(f"{'m' if number % 3 else 'push_x'}{number} 1\n" for number in range(40))
    found = [name for _, names in requests({"x": body}, 4, DROP_GAUGES) for name in names]
    assert found == [":up", *(f"x:m{number}" for number in range(40) if number % 3)]


def test_rules_that_drop_everything_end_the_round_in_pieces() -> None:
    """A request without samples gives others their turn after a bounded number of series."""
    found = requests({f"j{number}": "m 1\n" for number in range(30)}, 3, RelabelConfig(action="drop"))
    assert len(found) > 3
    assert all(names == [] for _, names in found)


def test_repeats_that_become_the_same_series() -> None:
    """A request holds each series once, with the value of the first."""
    assert requests({"x": "m 1\n", "y": "m 2\n"}, 10, DROP_GAUGES, NO_JOB) == [("", [":up", ":m"])]


def test_a_request_has_one_tenant() -> None:
    """Groups of a tenant share requests wherever they stand among the others; the agent's own have none."""
    jobs = dict.fromkeys(("a1", "b1", "none1", "a2", "b2", "none2"), "m 1\n")
    found = requests(jobs, 100, DROP_GAUGES, tenant_of=job_of)
    assert found == [
        ("", [":up"]),
        ("a", [":overdue"]),
        ("", ["none1:m", "none2:m"]),
        ("a", ["a1:m", "a2:m"]),
        ("b", ["b1:m", "b2:m"]),
    ]


@pytest.mark.parametrize("max_samples", [1, 2, 3, 7])
def test_tenants_and_full_requests(max_samples: int) -> None:
    """Whatever fits a request, each sample comes once, under its own tenant."""
    jobs = {f"{'abc'[number % 3]}{number}": "m 1\nn 2\n" for number in range(9)}
    found = requests(jobs, max_samples, tenant_of=job_of)
    names = [(tenant, name) for tenant, names in found for name in names if name[0] != ":"]
    wanted = [
        (job[0], f"{job}:{name}")
        for job in jobs
        for name in ("push_time_seconds", "push_failure_time_seconds", "m", "n")
    ]
    assert sorted(names) == sorted(wanted)
