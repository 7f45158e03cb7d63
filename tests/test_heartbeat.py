"""What the agent says of itself with the repeats."""

import struct

from bridge.heartbeat import Fact, Heartbeat
from bridge.wire.head import labels_of

STARTED_MS = 1_700_000_000_500
OWN = {"job": "pushbridge", "instance": "h:9091"}


def said(heartbeat: Heartbeat, at_ms: int) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each series."""
    heads, doubles = dict(heartbeat.points(at_ms)).get("", ([], []))
    values: list[float] = [struct.unpack("<d", double)[0] for double in doubles]
    return [(dict(labels_of(head)), value) for head, value in zip(heads, values, strict=True)]


def test_it_lives() -> None:
    """From its start on the agent says that it is up, and since when, under its own job and the external labels."""
    heartbeat = Heartbeat("h:9091", {"cluster": "eu1"}, STARTED_MS)
    assert said(heartbeat, STARTED_MS - 1) == []
    labels = {**OWN, "cluster": "eu1"}
    assert said(heartbeat, STARTED_MS) == [
        ({**labels, "__name__": "pushbridge_up"}, 1.0),
        ({**labels, "__name__": "pushbridge_start_time_seconds"}, STARTED_MS / 1000),
    ]


def test_external_labels_do_not_hide_the_agent() -> None:
    """An external label named job or instance gives way to the agent's own."""
    heartbeat = Heartbeat("h:9091", {"job": "x", "instance": "y"}, STARTED_MS)
    assert said(heartbeat, STARTED_MS)[0][0] == {**OWN, "__name__": "pushbridge_up"}


def test_parts_add_what_they_know_at_that_moment() -> None:
    """A source is asked at each point; its labels stand over the agent's, and what it no longer says is left out."""
    facts: list[Fact] = [("pushbridge_job_overdue", (("job", "backup"),), 1.0)]
    heartbeat = Heartbeat("h:9091", {}, STARTED_MS)
    heartbeat.add(lambda _: facts)
    overdue = {"__name__": "pushbridge_job_overdue", "job": "backup", "instance": "h:9091"}
    assert said(heartbeat, STARTED_MS)[2:] == [(overdue, 1.0)]
    facts[0] = ("pushbridge_job_overdue", (("job", "backup"),), 0.0)
    assert said(heartbeat, STARTED_MS)[2:] == [(overdue, 0.0)]
    facts.clear()
    assert len(said(heartbeat, STARTED_MS)) == 2


def test_what_is_about_a_group_goes_to_its_tenant() -> None:
    """The agent's own series belong to no tenant; those about groups go where the groups' samples go."""
    heartbeat = Heartbeat("h:9091", {"cluster": "eu1"}, STARTED_MS)
    about = [("overdue", (("job", job), ("team", team)), 1.0) for job, team in (("a", "x"), ("b", "y"), ("c", "x"))]
    heartbeat.add(lambda _: about, about_agent=False)
    heartbeat.add(lambda _: [("own", (("team", "x"),), 1.0)])
    said = heartbeat.points(STARTED_MS, lambda labels: dict(labels)["team"])
    jobs = [(tenant, [dict(labels_of(head))["job"] for head in heads]) for tenant, (heads, _) in said]
    assert jobs == [("", ["pushbridge"] * 3), ("x", ["a", "c"]), ("y", ["b"])]
