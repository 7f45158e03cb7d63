from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.batch import Request, Share, cut
from bridge.delivery.window import Refusal, Window
from bridge.journal.rows import DeadLetter, Settled
from bridge.wire import snappy_block
from tests.delivery.peers import decode, entry


def fields_of(*seqs: int) -> list[bytes]:
    return [one for seq in seqs for one in Request(entry(seq, "a", "b").body, 2).fields()]


def request_of(*seqs: int) -> Request:
    """A request with two samples of each row."""
    return cut(fields_of(*seqs), "t", tuple(Share(seq, 2) for seq in seqs))


def refused(start: int, stop: int, fields: list[bytes] | None, status: int = 400) -> Refusal:
    kept = None if fields is None else tuple(fields[start:stop])
    return Refusal(start, stop, status, "no", maybe_stored=True, fields=kept)


def opened(*seqs: int) -> Window:
    window = Window()
    for seq in seqs:
        window.open(seq, 2, {})
    return window


def test_the_cursor_waits_for_the_oldest() -> None:
    """Requests end in any order; rows are given when all before them are settled, as one stretch."""
    window = opened(1, 2, 3, 5)
    window.settle(request_of(2))
    window.settle(request_of(5))
    assert window.take() == []
    window.settle(request_of(1))
    assert window.take() == [Settled(1, 2, 4, {})]
    assert window
    window.settle(request_of(3))
    assert window.take() == [Settled(3, 5, 4, {})]
    assert not window


def test_a_row_in_several_requests() -> None:
    """A row that was cut is settled with the last of its requests."""
    window = Window()
    window.open(1, 4, {"relabel": 1})
    window.settle(cut(fields_of(1), "", (Share(1, 2),)))
    assert window.take() == []
    window.settle(cut(fields_of(1), "", (Share(1, 2),)))
    assert window.take() == [Settled(1, 1, 4, {"relabel": 1})]


def test_only_the_refused_row_is_accused() -> None:
    """The row of a refused sample is a stretch of its own, with its dead letter; its neighbours are delivered."""
    window, request = opened(1, 2, 3), request_of(1, 2, 3)
    window.settle(request, [refused(3, 4, request.fields())])
    before, accused, behind = window.take()
    assert (before, behind) == (Settled(1, 1, 2, {}), Settled(3, 3, 2, {}))
    (letter,) = accused.letters
    assert (accused.first_seq, accused.last_seq, accused.delivered, accused.words) == (2, 2, 1, "no")
    assert decode(letter.body) == [("b", 2.0, 2)]
    assert replace(letter, body=b"") == DeadLetter(2, 1, 400, "no", maybe_stored=True, body=b"", tenant="t")


def test_a_refusal_over_several_rows() -> None:
    """What is refused as a whole becomes one dead letter, or is counted as dropped for each row."""
    window, request = opened(1, 2), request_of(1, 2)
    window.settle(request, [refused(0, 4, request.fields(), 401)])
    (settled,) = window.take()
    (letter,) = settled.letters
    assert (letter.seq, letter.samples, letter.reason) == (1, 4, "http_401")
    assert decode(letter.body) == decode(request.block)
    window = opened(1, 2)
    window.settle(request, [refused(0, 4, None)])
    assert window.take() == [Settled(1, 2, 0, {"http_400": 4}, "no")]


def test_what_is_not_sent() -> None:
    """Rows of which nothing is sent are settled at once; what a target's own rules drop accuses nobody."""
    window = Window()
    window.open(1, 0, {"relabel": 3})
    window.open(2, 0, {"damaged": 2})
    window.open(3, 2, {"relabel": 1})
    assert window.take() == [Settled(1, 1, 0, {"relabel": 3}), Settled(2, 2, 0, {"damaged": 2})]
    window.settle(request_of(3))
    assert window.take() == [Settled(3, 3, 2, {"relabel": 1})]


@given(st.data(), st.integers(1, 8))
def test_every_sample_counts_once(data: st.DataObject, rows: int) -> None:
    """Whatever is refused and however requests end, each sample is delivered, dropped or a dead letter, once."""
    window = opened(*range(1, rows + 1))
    bounds = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=3))})
    requests = [request_of(*range(low + 1, high + 1)) for low, high in pairwise(bounds)]
    delivered = dropped = dead = bad = 0
    settled: list[Settled] = []
    for request in data.draw(st.permutations(requests)):
        marks = data.draw(st.sets(st.integers(0, request.samples - 1)))
        bad += len(marks)
        keep = data.draw(st.booleans())
        window.settle(request, [refused(at, at + 1, request.fields() if keep else None) for at in sorted(marks)])
        settled += window.take()
    assert not window
    for one in settled:
        delivered += one.delivered
        dropped += sum(one.dropped.values())
        dead += sum(letter.samples for letter in one.letters)
        assert all(one.first_seq <= letter.seq <= one.last_seq for letter in one.letters)
        assert all(len(decode(letter.body)) == letter.samples for letter in one.letters)
    assert (delivered, dropped + dead) == (2 * rows - bad, bad)
    assert [one.first_seq for one in settled] == sorted(one.first_seq for one in settled)
    assert snappy_block.declared_length(request_of(1).block)
