import pytest

from bridge.delivery.scaling import average, wanted_shards


@pytest.mark.parametrize(
    ("now", "latency_s", "prepare_s", "wanted"),
    [
        (1, 0.0, 0.005, 1),
        (1, 0.001, 0.005, 2),
        (1, 0.050, 0.005, 11),
        (11, 0.050, 0.005, 11),
        (10, 0.050, 0.005, 10),
        (11, 0.001, 0.005, 11),
        (1, 10.0, 0.005, 50),
        (1, 0.050, 0.0, 50),
    ],
    ids=["no time", "quick", "slow", "enough", "hardly more", "no fewer", "bounded", "first"],
)
def test_as_many_as_are_made_ready_in_a_round_trip(now: int, latency_s: float, prepare_s: float, wanted: int) -> None:
    """Long round trips get more requests in flight, up to the bound; a few more are not worth a pause."""
    assert wanted_shards(now, latency_s, prepare_s, 1, 50) == wanted


def test_never_fewer_than_the_least() -> None:
    """`min_shards` holds without any latency."""
    assert wanted_shards(1, 0.0, 1.0, 4, 50) == 4


def test_one_slow_answer_does_not_count_for_much() -> None:
    """The first measurement counts whole, each later one for a fifth."""
    assert average(0, 0.5) == 0.5
    assert average(0.1, 1.1) == pytest.approx(0.3)
