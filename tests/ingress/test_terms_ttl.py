"""What a sender may ask for beside the samples, and how it is told what is not understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bridge.errors import BadPushError
from bridge.ingress.terms import NO_TERMS, Terms, read_terms
from bridge.journal.rows import NEVER_MS

READ: dict[str, tuple[str, dict[str, str], Terms]] = {
    "nothing": ("", {}, NO_TERMS),
    "other parameters": ("a=b&c", {"X-Other": "1"}, NO_TERMS),
    "ttl parameter": ("ttl=90m", {}, Terms(5_400_000)),
    "ttl header": ("", {"X-Push-TTL": "8d"}, Terms(691_200_000)),
    "header in any case": ("", {"x-push-ttl": "8d"}, Terms(691_200_000)),
    "the header stands over the parameter": ("ttl=1d", {"X-Push-TTL": "2s"}, Terms(2000)),
    "sent once": ("ttl=0", {}, Terms(0)),
    "until deleted": ("ttl=inf", {}, Terms(NEVER_MS)),
    "an empty ttl is none": ("ttl=", {"X-Push-TTL": ""}, Terms()),
    "a millisecond": ("ttl=1ms", {}, Terms(1)),
    "key": ("", {"Idempotency-Key": "run 17/ü"}, Terms(key="run 17/ü")),
    "wait": ("wait=delivered", {}, Terms(wait_s=30.0)),
    "wait with a timeout": ("wait=delivered&timeout=1500ms", {}, Terms(wait_s=1.5)),
    "no wait is longer than five minutes": ("wait=delivered&timeout=1d", {}, Terms(wait_s=300.0)),
    "import": ("", {"X-Push-Import": "true"}, Terms(imported=True)),
    "no import": ("", {"X-Push-Import": "false"}, Terms()),
    "all of them": (
        "ttl=1s&wait=delivered",
        {"Idempotency-Key": "k", "X-Push-Import": "TRUE"},
        Terms(1000, "k", 30.0, True),
    ),
}


@pytest.mark.parametrize(("query", "headers", "wanted"), READ.values(), ids=READ)
def test_what_may_be_asked_for(query: str, headers: dict[str, str], wanted: Terms) -> None:
    """Headers in any case and query parameters; what is not ours is left alone."""
    assert read_terms(query, CIMultiDict(headers)) == wanted


REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "no duration": ("ttl=soon", {}, "ttl: got 'soon', want a duration such as 90m or 8d"),
    "names the header": ("", {"X-Push-TTL": "1"}, "X-Push-TTL: got '1', want a duration"),
    "negative": ("ttl=-1s", {}, "ttl: got '-1s'"),
    "a fraction": ("ttl=1.5h", {}, "ttl: got '1.5h'"),
    "inf in other letters": ("ttl=Inf", {}, "ttl: got 'Inf'"),
    "longer than any time": ("ttl=999999999999y", {}, "ttl: got '999999999999y'"),
    "more digits than a number has": (f"ttl={'9' * 400}ms", {}, "ttl: got '999"),
    "wait for something else": ("wait=written", {}, "wait: got 'written', want delivered"),
    "timeout": ("wait=delivered&timeout=x", {}, "timeout: got 'x', want a duration"),
    "a key too long": ("", {"Idempotency-Key": "k" * 256}, "Idempotency-Key: got 'kkk"),
    "a key with control characters": ("", {"Idempotency-Key": "a\tb"}, "Idempotency-Key: got"),
    "import": ("", {"X-Push-Import": "yes"}, "X-Push-Import: got 'yes', want true or false"),
}


@pytest.mark.parametrize(("query", "headers", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood(query: str, headers: dict[str, str], words: str) -> None:
    """A wish that is not understood refuses the push, with what was got and what is wanted."""
    with pytest.raises(BadPushError) as caught:
        read_terms(query, CIMultiDict(headers))
    assert words in str(caught.value)
    assert caught.value.reason == "terms"


@given(st.text(), st.text())
def test_any_text_is_terms_or_a_bad_push(query: str, ttl: str) -> None:
    """Whatever comes, it is understood or refused, and a TTL never reaches further than SQLite's integers."""
    try:
        terms = read_terms(query, CIMultiDict({"X-Push-TTL": ttl}))
    except BadPushError:
        return
    assert terms.ttl_ms is None or 0 <= terms.ttl_ms <= NEVER_MS
