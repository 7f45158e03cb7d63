import pytest

from bridge.delivery.outcome import Delivered, Rejected, RetryLater, classify


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    """Every 2xx ends the batch, whatever the body says."""
    assert classify(status, b"error!", "30", 0) == Delivered(status)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_try_again(status: int) -> None:
    """429 and 5xx are tried again, after the time that the receiver asks for."""
    assert classify(status, b" busy\n", "30", 0) == RetryLater(30.0, status, "busy")
    assert classify(status, b"", None, 0) == RetryLater(None, status, "")


@pytest.mark.parametrize("status", [300, 301, 307, 308, 400, 401, 404, 409, 413, 415, 422, 428, 430, 499])
def test_final(status: int) -> None:
    """Redirects and all 4xx but 429 are final and name their status."""
    assert classify(status, b"no", "30", 0) == Rejected(status, "no")


@pytest.mark.parametrize("status", [0, 100, 199, 600, 999])
def test_no_http_status(status: int) -> None:
    """A number that means nothing is no reason to drop data."""
    assert isinstance(classify(status, b"", None, 0), RetryLater)


def test_words_are_bounded_and_always_text() -> None:
    """At most 1024 bytes of the receiver's words are kept, even when the cut or the bytes are no UTF-8."""
    outcome = classify(400, b"x" * 1023 + "é".encode() + b"y" * 5000, None, 0)
    assert outcome == Rejected(400, "x" * 1023 + "\ufffd")
