"""AWS' published test suite for Signature Version 4 (aws-sig-v4-test-suite), and what it leaves out."""

from datetime import UTC, datetime

import pytest

from bridge.delivery.sigv4 import Keys, Scope, sign

KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SCOPE = Scope("us-east-1", "service")
AT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
PLAIN = "host;x-amz-date"
MINE = "host;my-header1;x-amz-date"
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
FORM = ("Content-Type", "application/x-www-form-urlencoded")

Vector = tuple[str, str, str, list[tuple[str, str]], bytes, str, str]
# name, method, what follows the host, headers, body, signed headers, signature
VECTORS: list[Vector] = [
    ("get-vanilla", "GET", "/", [], b"", PLAIN, VANILLA),
    ("get-vanilla-without-path", "GET", "", [], b"", PLAIN, VANILLA),
    ("get-relative", "GET", "/example/..", [], b"", PLAIN, VANILLA),
    ("get-relative-relative", "GET", "/example1/example2/../..", [], b"", PLAIN, VANILLA),
    ("get-slash-dot-slash", "GET", "/./", [], b"", PLAIN, VANILLA),
    ("get-slash", "GET", "//", [], b"", PLAIN, VANILLA),
    (
        "get-vanilla-empty-query-key",
        "GET",
        "/?Param1=value1",
        [],
        b"",
        PLAIN,
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    (
        "get-vanilla-query-order-key-case",
        "GET",
        "/?Param2=value2&Param1=value1",
        [],
        b"",
        PLAIN,
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "get-vanilla-query-order-value",
        "GET",
        "/?Param1=value2&Param1=value1",
        [],
        b"",
        PLAIN,
        "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
    ),
    (
        "get-utf8",
        "GET",
        "/ሴ",
        [],
        b"",
        PLAIN,
        "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
    ),
    (
        "get-header-key-duplicate",
        "GET",
        "/",
        [("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")],
        b"",
        MINE,
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    (
        "get-header-value-order",
        "GET",
        "/",
        [("My-Header1", value) for value in ("value4", "value1", "value3", "value2")],
        b"",
        MINE,
        "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
    ),
    (
        "get-header-value-trim",
        "GET",
        "/",
        [("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')],
        b"",
        "host;my-header1;my-header2;x-amz-date",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    ("post-vanilla", "POST", "/", [], b"", PLAIN, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "post-vanilla-query",
        "POST",
        "/?Param1=value1",
        [],
        b"",
        PLAIN,
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    (
        "post-header-key-sort",
        "POST",
        "/",
        [("My-Header1", "value1")],
        b"",
        MINE,
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    (
        "post-x-www-form-urlencoded",
        "POST",
        "/",
        [FORM],
        b"Param1=value1",
        "content-type;host;x-amz-date",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector[0])
def test_published_vectors(vector: Vector) -> None:
    """The header is, to the letter, the one that AWS publishes for the request."""
    _, method, rest, headers, body, names, signature = vector
    added = sign(method, f"https://example.amazonaws.com{rest}", headers, body, keys=KEYS, scope=SCOPE, at=AT)
    assert added == {
        "X-Amz-Date": "20150830T123600Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}",
    }


def test_temporary_keys() -> None:
    """The token of temporary keys is sent and signed, as in the suite's post-sts-header-before."""
    token = (
        "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4"  # noqa: S105 - AWS' own example
        "FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YU"
        "uwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQ"
        "cHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/"
        "oLxBA=="
    )
    keys = Keys(KEYS.access_key, KEYS.secret_key, token)
    added = sign("POST", "https://example.amazonaws.com/", [], b"", keys=keys, scope=SCOPE, at=AT)
    assert added["X-Amz-Security-Token"] == token
    assert added["Authorization"].endswith(
        "SignedHeaders=host;x-amz-date;x-amz-security-token,"
        " Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
    )


def test_an_encoded_path_is_encoded_once_more() -> None:
    """As all services but S3 want it: the signature of a space sent as %20 is that of the text %20."""

    def signature(path: str) -> str:
        return sign("GET", f"https://h{path}", [], b"", keys=KEYS, scope=SCOPE, at=AT)["Authorization"]

    assert signature("/a%20b") != signature("/a b")


def test_a_port_is_signed_unless_it_goes_without_saying() -> None:
    """Host is signed as clients send it."""

    def signature(url: str) -> str:
        return sign("GET", url, [], b"", keys=KEYS, scope=SCOPE, at=AT)["Authorization"]

    assert signature("https://h:443/") == signature("https://H/")
    assert signature("https://h:8443/") != signature("https://h/")


def test_keys_do_not_show_their_secrets() -> None:
    """Printing keys tells who signs and not with what."""
    assert "wJalr" not in repr(KEYS)
    assert "AKIDEXAMPLE" in repr(KEYS)
