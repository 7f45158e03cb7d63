from math import ceil, log2

from hypothesis import example, given
from hypothesis import strategies as st

from bridge.delivery.split import Bisection


def search(size: int, bad: set[int]) -> tuple[list[int], list[int], int]:
    """Which samples were delivered and which found bad, in order, and how many requests that took."""
    bisection = Bisection(size)
    delivered: list[int] = []
    found: list[int] = []
    requests = 0
    while not bisection.over:
        span = range(bisection.start, bisection.stop)
        requests += 1
        assert requests <= 4 * size + 50
        if bad.isdisjoint(span):
            delivered += span
            bisection.passed()
        elif bisection.refused():
            found += span
    return delivered, found, requests


@given(
    st.integers(1, 300).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1), min_size=1)))
)
@example((1, {0}))
@example((2, {0, 1}))
@example((2000, set(range(2000))))
def test_the_refused_are_found_alone_and_the_rest_is_delivered(case: tuple[int, set[int]]) -> None:
    """Each bad sample is found by being sent alone, each good one is delivered once, all in order."""
    size, bad = case
    delivered, found, requests = search(size, bad)
    assert found == sorted(bad)
    assert delivered == sorted(set(range(size)) - bad)
    assert requests <= size + 3 * log2(size + 1) ** 2


@given(st.integers(0, 1999))
def test_one_bad_sample_in_many(at: int) -> None:
    """One bad sample in n costs about log2(n) further requests, wherever it is."""
    assert search(2000, {at})[2] <= ceil(log2(2000)) + 3


@given(st.sets(st.integers(0, 1999), min_size=1, max_size=60))
def test_some_bad_samples_in_many(bad: set[int]) -> None:
    """K bad samples in n cost about k * log2(n / k) further requests."""
    expected = len(bad) * (log2(2000 / len(bad)) + 1)
    assert search(2000, bad)[2] <= 2 * expected + 12


@given(st.sets(st.integers(0, 1999), max_size=100))
def test_nearly_all_bad(good: set[int]) -> None:
    """When most are bad it costs little more than a request for each of them."""
    assert search(2000, set(range(2000)) - good)[2] <= 2000 + 3 * len(good) + 100


@given(st.integers(2, 200), st.data())
def test_a_receiver_that_changes_its_mind(size: int, data: st.DataObject) -> None:
    """Whatever is answered, the search ends, and every sample is decided once and in order."""
    bisection = Bisection(size)
    decided: list[int] = []
    for _ in range(20 * size):
        if bisection.over:
            break
        span = range(bisection.start, bisection.stop)
        answer = data.draw(st.sampled_from(["passed", "refused", "whole"]))
        if answer == "passed":
            bisection.passed()
        elif answer == "whole":
            bisection.decide()
        elif not bisection.refused():
            continue
        decided += span
    assert bisection.over
    assert decided == list(range(size))
