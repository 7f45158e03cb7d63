from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.batch import plan_batch
from bridge.journal.rows import Entry
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
