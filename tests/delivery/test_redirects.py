import pytest

from bridge.delivery.redirects import RedirectError, next_url

URL = "http://a.example/write"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "http://a.example/other"),
        ("http://a.example:80/x", "http://a.example:80/x"),
        ("https://a.example/write", "https://a.example/write"),
    ],
)
@pytest.mark.parametrize("status", [307, 308])
def test_followed_on_one_server(status: int, location: str, target: str) -> None:
    """A redirect that repeats the request is followed on its server, also up to https."""
    assert next_url(status, location, URL, private=True) == target


@pytest.mark.parametrize("location", ["http://b.example/", "http://a.example:81/", "//b.example/x"])
def test_another_server_sees_no_secrets(location: str) -> None:
    """To another server only a request without sign-in and headers is sent."""
    with pytest.raises(RedirectError, match="another server must not see") as caught:
        next_url(307, location, URL, private=True)
    assert caught.value.status == 307
    assert next_url(307, location, URL, private=False).startswith("http://")


def test_down_from_https() -> None:
    """A sign-in does not go out in the clear because somebody said so."""
    with pytest.raises(RedirectError):
        next_url(308, "http://a.example/write", "https://a.example/write", private=True)


@pytest.mark.parametrize("status", [301, 302, 303])
def test_another_request_is_not_made(status: int) -> None:
    """What would make a GET of the POST ends, and the words say where it led, without secrets."""
    with pytest.raises(RedirectError, match=r"http://b.example/x; not followed.*set url") as caught:
        next_url(status, "http://user:marker@b.example/x?marker", URL, private=False)
    assert "marker" not in str(caught.value)


@pytest.mark.parametrize("location", ["ftp://a.example/", "http://[", "javascript:1", "", "http://a..b/"])
def test_nonsense(location: str) -> None:
    """A redirect to what is no HTTP ends there."""
    with pytest.raises(RedirectError):
        next_url(307, location, URL, private=False)
