"""What a sender may ask for beside the samples, as headers and query parameters."""

import pytest
from multidict import CIMultiDict

from bridge.errors import BadPushError
from bridge.ingress.terms import MAX_WAIT_S, NO_TERMS, Terms, read_terms

KEY, IMPORT = "Idempotency-Key", "X-Push-Import"


def test_nothing_asked_for() -> None:
    """A push without query and headers of ours has no terms."""
    assert read_terms("", {}) is NO_TERMS
    assert read_terms("", {"Content-Type": "text/plain"}) is NO_TERMS


@pytest.mark.parametrize("query", ["x=1", "wait_for=me&TTL=1h&Wait=delivered", "timeout=nonsense", "&&=&;", "%zz=%"])
def test_unknown_parameters_are_left_alone(query: str) -> None:
    """What is not ours in a query means nothing, as in Pushgateway; a timeout without a wait neither."""
    assert read_terms(query, {}) == NO_TERMS


@pytest.mark.parametrize(
    "key", ["k", "8e03978e-40d5-43dd-bc93-6894a57f9324", '"quoted"', "a b", "Schlüssel 北京", "k" * 255]
)
def test_a_key_is_kept_as_it_is(key: str) -> None:
    """A key of 1 to 255 printable characters is taken just as it is written, by any spelling of the header's name."""
    assert read_terms("", {KEY: key}) == Terms(key=key)
    assert read_terms("", CIMultiDict({"idempotency-KEY": key})) == Terms(key=key)


@pytest.mark.parametrize("key", ["k" * 256, "tab\there", "\x7f", "\udce4", "\u200b", "a\nb"])
def test_a_key_that_cannot_be_kept(key: str) -> None:
    """Too long a key, and one with characters that cannot be seen or are no text, is refused by name."""
    with pytest.raises(BadPushError, match=r"^Idempotency-Key: got .*, want at most 255 printable characters$"):
        read_terms("", {KEY: key})


def test_an_empty_key_is_refused() -> None:
    """A header without a value would promise what it does not give."""
    with pytest.raises(BadPushError, match="Idempotency-Key: got nothing, want 1 to 255 printable characters"):
        read_terms("", {KEY: ""})


@pytest.mark.parametrize(
    ("query", "wait_s"),
    [
        ("wait=delivered", 30.0),
        ("wait=delivered&timeout=10s", 10.0),
        ("timeout=1m30s&wait=delivered", 90.0),
        ("wait=delivered&timeout=500ms", 0.5),
        ("wait=delivered&timeout=0", 0.0),
        ("wait=delivered&timeout=1d", MAX_WAIT_S),
        ("x=1&wait=delivered", 30.0),
        ("wait=d%65livered", 30.0),
    ],
)
def test_how_long_an_answer_waits(query: str, wait_s: float) -> None:
    """As long as the timeout says, never longer than the bound, 30 s without one."""
    assert read_terms(query, {}) == Terms(wait_s=wait_s)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("wait=", "wait: got '', want delivered"),
        ("wait", "wait: got '', want delivered"),
        ("wait=true", "wait: got 'true', want delivered"),
        ("wait=delivered&timeout=", "timeout: got '', want a duration such as 10s, at most 300s"),
        ("wait=delivered&timeout=10", "timeout: got '10', want a duration such as 10s, at most 300s"),
        ("wait=delivered&timeout=-1s", "timeout: got '-1s', want a duration such as 10s, at most 300s"),
        ("wait=delivered&timeout=inf", "timeout: got 'inf', want a duration such as 10s, at most 300s"),
    ],
)
def test_a_wait_that_is_not_understood(query: str, words: str) -> None:
    """It is refused with what was got and what is wanted: a sender that must know must not be misread."""
    with pytest.raises(BadPushError) as caught:
        read_terms(query, {})
    assert (str(caught.value), caught.value.reason) == (words, "terms")


@pytest.mark.parametrize(("text", "imported"), [("true", True), ("TRUE", True), ("false", False), ("", False)])
def test_an_import_says_so(text: str, imported: bool) -> None:
    """Only `true` makes a push an import."""
    assert read_terms("x=1", {IMPORT: text}).imported is imported


def test_an_import_that_is_not_understood() -> None:
    """Anything but true and false is refused."""
    with pytest.raises(BadPushError, match=r"^X-Push-Import: got '1', want true or false$"):
        read_terms("", {IMPORT: "1"})


def test_everything_at_once() -> None:
    """The terms do not get in each other's way."""
    found = read_terms("wait=delivered&timeout=2s", {KEY: "k", IMPORT: "true", "X-Push-TTL": "inf"})
    assert (found.key, found.wait_s, found.imported) == ("k", 2.0, True)
    assert found.ttl_ms is not None
