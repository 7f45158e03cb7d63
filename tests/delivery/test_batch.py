from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.batch import plan_batch
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
