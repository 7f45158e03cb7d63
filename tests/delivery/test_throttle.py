"""Log lines about a target: at once, then seldom, and no tenant hides another."""

from structlog.testing import capture_logs

from bridge.delivery.throttle import LOG_INTERVAL_S, ThrottledLog
from tests.delivery.peers import Clock


def test_a_line_at_once_and_then_seldom() -> None:
    """What is left out is counted in the next line of its kind; other events have lines of their own."""
    clock = Clock()
    log = ThrottledLog("t", "http://t", clock)
    with capture_logs() as lines:
        for _ in range(5):
            log.warning("failed")
        log.error("refused")
        clock.now_s += LOG_INTERVAL_S
        log.warning("failed")
    assert [(line["event"], line["left_out"]) for line in lines] == [("failed", 0), ("refused", 0), ("failed", 4)]


def test_each_tenant_is_named() -> None:
    """Several tenants in trouble have a line each in the same interval, but not hundreds of them."""
    clock = Clock()
    log = ThrottledLog("t", "http://t", clock)
    with capture_logs() as lines:
        for _ in range(3):
            log.warning("failed", tenant="red")
            log.warning("failed", tenant="blue")
        for number in range(100):
            log.warning("failed", tenant=f"t{number}")
        clock.now_s += LOG_INTERVAL_S
        log.warning("failed", tenant="blue")
    named = [line["tenant"] for line in lines]
    assert named == ["red", "blue", *(f"t{number}" for number in range(8)), "blue"]
    assert sum(line["left_out"] for line in lines) == 4 + 92
