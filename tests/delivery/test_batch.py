from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bridge.config.relabel import RelabelConfig
from bridge.delivery.batch import Fate, plan_batch, settle
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules
from bridge.journal.rows import Entry, Settled
from tests.delivery.peers import decode, entry, expected

NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8)


@given(st.lists(NAMES, min_size=1, max_size=10), st.integers(1, 10), st.integers(20, 400))
def test_batches_keep_order_and_limits(rows: list[list[str]], max_samples: int, max_bytes: int) -> None:
    """Whatever the limits, batch after batch gives every sample once, in order, and none over a limit."""
    entries = [entry(seq, *names) for seq, names in enumerate(rows, 1)]
    sent: list[tuple[str, float, int]] = []
    after = 0
    while after < len(entries):
        batch = plan_batch(entries[after:], max_samples, max_bytes)
        assert batch.last_seq > after
        after = batch.last_seq
        for request in batch.requests:
            points = decode(request.block)
            assert len(points) == request.samples <= max_samples
            sent += points
    assert sent == expected(*entries)


@given(st.lists(st.one_of(NAMES, st.sampled_from([b"", b"\xff"])), min_size=1, max_size=10), st.integers(1, 10))
def test_damaged_rows_are_batches_of_their_own(rows: list[list[str] | bytes], max_samples: int) -> None:
    """What is said of a batch holds for each row in it: it is damaged through and through, or not at all."""
    entries = [
        entry(seq, *row) if isinstance(row, list) else Entry(seq, 3, row, 1, damaged=not row)
        for seq, row in enumerate(rows, 1)
    ]
    after, damaged = 0, 0
    while after < len(entries):
        batch = plan_batch(entries[after:], max_samples, 1000)
        kinds = {isinstance(rows[seq - 1], list) for seq in range(batch.first_seq, batch.last_seq + 1)}
        assert (batch.first_seq, kinds) == (after + 1, {not batch.damaged})
        assert not (batch.damaged and batch.requests)
        after, damaged = batch.last_seq, damaged + batch.damaged
    assert damaged == 3 * sum(isinstance(row, bytes) for row in rows)


TENANTS = st.sampled_from(["", "x", "y"])


def tenant_entry(seq: int, tenant: str, *names: str) -> Entry:
    """A row of a group whose key is the tenant's name."""
    return replace(entry(seq, *names), group=tenant.encode())


@given(st.lists(st.tuples(TENANTS, NAMES), min_size=1, max_size=10), st.integers(1, 10), st.integers(20, 400))
def test_requests_of_tenants(rows: list[tuple[str, list[str]]], max_samples: int, max_bytes: int) -> None:
    """No request mixes tenants or is over a limit, and each tenant gets its samples once and in order."""
    entries = [tenant_entry(seq, tenant, *names) for seq, (tenant, names) in enumerate(rows, 1)]
    rules = TargetRules(None, bytes.decode)
    sent: dict[str, list[tuple[str, float, int]]] = {}
    after = 0
    while after < len(entries):
        batch = plan_batch(entries[after:], max_samples, max_bytes, rules)
        for request in batch.requests:
            points = decode(request.block)
            assert len(points) == request.samples <= max_samples
            sent.setdefault(request.tenant, []).extend(points)
        of_one = {request.tenant for request in batch.requests}
        assert len(of_one) == len(batch.requests) or batch.first_seq == batch.last_seq
        after = batch.last_seq
    wanted = {tenant: expected(*(one for one in entries if one.group.decode() == tenant)) for tenant, _ in rows}
    assert sent == wanted


def test_what_rules_drop_is_counted() -> None:
    """A batch says what the target's rules dropped; rows of which nothing is left make no request."""
    rules = TargetRules(Relabeler([RelabelConfig(source_labels=("__name__",), regex="a", action="drop")]).relabel)
    batch = plan_batch([entry(1, "a", "b"), entry(2, "a")], 10, 1000, rules)
    assert [decode(request.block) for request in batch.requests] == [[("b", 1.0, 1)]]
    assert (batch.last_seq, batch.dropped) == (2, {"relabel": 2})
    assert settle(batch, [Fate(1)]) == [Settled(1, 2, 1, {"relabel": 2})]
    batch = plan_batch([entry(1, "a"), entry(2, "a", "a")], 10, 1000, rules)
    assert (batch.requests, batch.dropped) == ((), {"relabel": 3})
    assert settle(batch, []) == [Settled(1, 2, 0, {"relabel": 3})]


def test_a_row_over_the_limit_is_relabeled_before_it_is_cut() -> None:
    """The cuts are made of what is left."""
    rules = TargetRules(Relabeler([RelabelConfig(source_labels=("__name__",), regex="a", action="drop")]).relabel)
    batch = plan_batch([entry(1, *"abcadea")], 2, 1000, rules)
    assert [[name for name, _, _ in decode(request.block)] for request in batch.requests] == [["b", "c"], ["d", "e"]]
    assert batch.dropped == {"relabel": 3}


def test_a_batch_of_several_tenants_tells_each_push_its_own() -> None:
    """When one tenant's request is refused, the rows of the others are settled as delivered, and the sums are right."""
    entries = [tenant_entry(seq, tenant, "a") for seq, tenant in enumerate("xyyxy", 1)]
    batch = plan_batch(entries, 10, 1000, TargetRules(None, bytes.decode))
    assert [(request.tenant, request.rows) for request in batch.requests] == [("x", (1, 4)), ("y", (2, 3, 5))]
    assert settle(batch, [Fate(2), Fate(3)]) == [Settled(1, 5, 5, {})]
    refused = Fate(dropped={"http_400": 2}, words="no")
    assert settle(batch, [refused, Fate(3)]) == [
        Settled(1, 1, 0, {"http_400": 2}, "no"),
        Settled(2, 3, 3, {}),
        Settled(4, 4, 0, {"http_400": 0}, "no"),
        Settled(5, 5, 0, {}),
    ]


@given(
    st.lists(st.tuples(TENANTS, st.booleans()), min_size=1, max_size=9),
    st.sets(TENANTS),
    st.lists(st.integers(1, 3), min_size=9, max_size=9),
)
def test_settling_counts_everything_once(rows: list[tuple[str, bool]], refused: set[str], steps: list[int]) -> None:
    """Whatever was refused and dropped, the stretches follow each other without a gap, and each sample is counted."""
    seqs = [sum(steps[: at + 1]) for at in range(len(rows))]
    entries = [tenant_entry(seq, tenant, "a" if gone else "b") for seq, (tenant, gone) in zip(seqs, rows, strict=False)]
    drop = Relabeler([RelabelConfig(source_labels=("__name__",), regex="a", action="drop")]).relabel
    batch = plan_batch(entries, 100, 10_000, TargetRules(drop, bytes.decode))
    fates = [
        Fate(dropped={"http_400": one.samples}, words=one.tenant) if one.tenant in refused else Fate(one.samples)
        for one in batch.requests
    ]
    settled = settle(batch, fates)
    assert (settled[0].first_seq, settled[-1].last_seq) == (seqs[0], seqs[-1])
    assert all(before.last_seq + 1 == one.first_seq for before, one in pairwise(settled))
    delivered = sum(one.delivered for one in settled)
    assert delivered == sum(not gone and tenant not in refused for tenant, gone in rows)
    assert delivered + sum(sum(one.dropped.values()) for one in settled) == len(rows)
    for seq, (tenant, gone) in zip(seqs, rows, strict=False):
        (mine,) = [one for one in settled if one.first_seq <= seq <= one.last_seq]
        assert gone or ("http_400" in mine.dropped) is (tenant in refused)
