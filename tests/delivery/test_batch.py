from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bridge.config.relabel import RelabelConfig
from bridge.delivery.batch import Packer, Request, Share
from bridge.delivery.relabel import Relabeler
from bridge.delivery.rewrite import TargetRules, prepare
from bridge.journal.rows import Entry
from tests.delivery.peers import decode, entry, expected

NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8)
TENANTS = st.sampled_from(["", "x", "y"])
NO_RULES = TargetRules()


def tenant_entry(seq: int, tenant: str, *names: str) -> Entry:
    """A row of a group whose key is the tenant's name."""
    return replace(entry(seq, *names), group=tenant.encode())


def pack(entries: Sequence[Entry], max_samples: int, max_bytes: int, rules: TargetRules = NO_RULES) -> list[Request]:
    """All requests of these rows, in order."""
    packer = Packer(max_samples, max_bytes)
    requests: list[Request] = []
    for one in entries:
        row = prepare(one, rules)
        assert row is not None
        if row.samples:
            requests += packer.add(one.seq, row)
    return [*requests, *packer.flush()]


@given(
    st.lists(st.tuples(TENANTS, NAMES), min_size=1, max_size=10),
    st.integers(1, 10),
    st.integers(20, 400),
    st.booleans(),
)
def test_requests(rows: list[tuple[str, list[str]]], max_samples: int, max_bytes: int, tenants: bool) -> None:
    """No request mixes tenants or is over a limit; each tenant gets its samples once, in order; shares say whose."""
    entries = [tenant_entry(seq, tenant, *names) for seq, (tenant, names) in enumerate(rows, 1)]
    requests = pack(entries, max_samples, max_bytes, TargetRules(None, bytes.decode) if tenants else NO_RULES)
    sent: dict[str, list[tuple[str, float, int]]] = {}
    shares: dict[int, int] = {}
    for request in requests:
        points = decode(request.block)
        assert len(points) == request.samples <= max_samples
        assert len(request.fields()) == request.samples
        assert [seq for _, _, seq in points] == [share.seq for share in request.shares for _ in range(share.samples)]
        sent.setdefault(request.tenant, []).extend(points)
        for share in request.shares:
            shares[share.seq] = shares.get(share.seq, 0) + share.samples
    assert shares == {one.seq: one.samples for one in entries}
    found = {tenant if tenants else "" for tenant, _ in rows}
    assert sent == {
        tenant: expected(*(one for one in entries if not tenants or one.group.decode() == tenant)) for tenant in found
    }


@given(st.lists(NAMES, min_size=2, max_size=10))
def test_requests_are_as_full_as_the_limits_let_them(rows: list[list[str]]) -> None:
    """Two neighbours never fit together into one request, unless a row over the limits was cut between them."""
    requests = pack([entry(seq, *names) for seq, names in enumerate(rows, 1)], 8, 1 << 20)
    for before, request in pairwise(requests):
        assert before.samples + request.shares[0].samples > 8


def test_a_row_over_the_limit_is_relabeled_before_it_is_cut() -> None:
    """The cuts are made of what is left, in order, behind what waited before them."""
    rules = TargetRules(Relabeler([RelabelConfig(source_labels=("__name__",), regex="a", action="drop")]).relabel)
    requests = pack([entry(1, "f"), entry(2, *"abcadea"), entry(3, "f")], 2, 1000, rules)
    names = [[name for name, _, _ in decode(request.block)] for request in requests]
    assert names == [["f"], ["b", "c"], ["d", "e"], ["f"]]
    assert requests[1].shares == (Share(2, 2),)
