import pytest

from bridge.delivery.proxies import proxy_for, proxy_from_environment

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://a.example/", "", False),
        ("http://127.0.0.1/", "", False),
        ("http://127.0.0.1/", "x", True),
        ("http://[::1]/", "x", True),
        ("http://localhost:9090/", "x", True),
        ("http://a.example/", "*", True),
        ("http://a.example/", "example", True),
        ("http://a.example/", "a.example", True),
        ("http://b.a.example/", " A.example ", True),
        ("http://ba.example/", "a.example", False),
        ("http://a.example/", ".a.example", False),
        ("http://b.a.example/", ".a.example", True),
        ("http://b.a.example/", "*.a.example", True),
        ("http://a.example:9009/", "a.example:9009", True),
        ("http://a.example/", "a.example:9009", False),
        ("https://a.example/", "a.example:443", True),
        ("http://10.1.2.3/", "10.0.0.0/8", True),
        ("http://11.1.2.3/", "10.0.0.0/8", False),
        ("http://10.1.2.3/", "10.1.2.3", True),
        ("http://10.1.2.3:80/", "10.1.2.3:80", True),
        ("http://[fd00::1]/", "fd00::/8", True),
        ("http://[fd00::1]:90/", "[fd00::1]:90", True),
        ("http://[fd00::1]:91/", "[fd00::1]:90", False),
        ("http://a.example/", "b,, c , a.example", True),
    ],
)
def test_no_proxy(url: str, no_proxy: str, direct: bool) -> None:
    """Hosts, domains, addresses and networks go direct by Go's rules, loopback as soon as there are any."""
    assert proxy_for(url, PROXY, no_proxy) == ("" if direct else PROXY)


def test_environment() -> None:
    """The variables count by the scheme of the URL, in both spellings, and loopback is never sent to a proxy."""
    environ = {"HTTP_PROXY": "plain:3128", "https_proxy": "http://tls:3128", "NO_PROXY": "skip.example"}
    assert proxy_from_environment("http://a/", environ) == "http://plain:3128"
    assert proxy_from_environment("https://a/", environ) == "http://tls:3128"
    assert proxy_from_environment("http://skip.example/", environ) == ""
    assert proxy_from_environment("http://127.0.0.1/", environ) == ""
    assert proxy_from_environment("http://a/", {}) == ""
