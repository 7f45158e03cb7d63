import pytest

from bridge.config.file import load
from bridge.config.units import split_address
from bridge.errors import ConfigError
from bridge.sizes import parse_size_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("64MB", 64_000_000), ("10", 10), (10, 10), ("1KiB", 1024)]
)
def test_sizes(text: object, size: int) -> None:
    """Sizes take binary and decimal units or plain bytes."""
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "1XB", "-1", True])
def test_bad_sizes(text: object) -> None:
    """Anything else is refused with an example of what is wanted."""
    with pytest.raises(ValueError, match="not a size"):
        parse_size_bytes(text)


def test_addresses() -> None:
    """Listen addresses may name a host, an IPv6 address or all interfaces."""
    assert split_address("127.0.0.1:9091") == ("127.0.0.1", 9091)
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address(":0") == ("", 0)


def test_defaults() -> None:
    """An empty file gives the documented defaults."""
    config = load("", "c.yml")
    assert config.web.listen_address == "127.0.0.1:9091"
    assert config.storage.retention == 86400
    assert config.storage.max_bytes == 2**30
    assert config.exposes_groups


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web:\n  listen_adress: x\n", r"c.yml:2: unknown key web.listen_adress"),
        ("wed: {}\n", r"c.yml:1: unknown key wed"),
        ("storage:\n  path: /x\n  retention: soon\n", r"c.yml:3: storage.retention: not a duration: got 'soon'"),
        ("web:\n  listen_address: nine\n", r"c.yml:2: web.listen_address: not an address: got 'nine'"),
        ("remote_write:\n  - name: a\n", r"c.yml:2: remote_write.0.url: Field required"),
        ("remote_write:\n  - url: ftp://x\n", r"c.yml:2: remote_write.0.url: not an http\(s\) URL"),
        ("remote_write:\n  - url: http://x/\n  - url: http://x/\n", r"two remote_write targets are called 'x/'"),
        ("remote_write:\n  - url: http://x/\n    headers:\n      Host: y\n", r"c.yml:3: .*Host is a reserved header"),
        ("rules:\n  - match: {}\n    grace: 1h\n", r"c.yml:2: rules.0: grace needs expect_every"),
        ("rules:\n  - match: {}\n    expect_every: 0\n", r"c.yml:3: rules.0.expect_every: must be more than 0"),
        ("rules:\n  - match: {}\n    runs: {metric: a}\n", r"c.yml:3: unknown key rules.0.runs.metric"),
        ("remote_write:\n  - url: http://x/\n    tenant_header: Host\n", r"c.yml:3: .*Host is a reserved header"),
        (
            "remote_write:\n  - url: http://x/\n    tenant_header: 'a b'\n",
            r"c.yml:3: .*not the name of a header: got 'a b'",
        ),
        ("rules:\n  - match: {}\n    tenant: '{a b}'\n", r"c.yml:3: rules.0.tenant: .*{a b} is no label"),
        ("a: [", r"c.yml:1: not valid YAML"),
        ("- a\n", r"want a mapping"),
        ("storage:\n  when_full: explode\n", r"c.yml:2: storage.when_full: .*'reject' or 'drop_oldest'.*got 'explode'"),
    ],
)
def test_bad_files_name_key_and_line(text: str, message: str) -> None:
    """Each fault names the file, the line, the key, what was got and what is wanted."""
    with pytest.raises(ConfigError, match=message):
        load(text, "c.yml")


def test_overrides_win_and_targets_add_up() -> None:
    """Flags stand over the file; --remote-write.url adds a target."""
    config = load(
        "web:\n  listen_address: :1\nremote_write:\n  - url: http://a/\n",
        "c.yml",
        {"web": {"listen_address": ":2"}, "remote_write": {"targets": [{"url": "http://u:secret@b/p"}]}},
    )
    assert config.web.listen_address == ":2"
    assert [target.target for target in config.remote_write] == ["a/", "b/p"]
    assert not config.exposes_groups


def test_route_prefix_comes_from_the_external_url() -> None:
    """As on Pushgateway, the prefix is the external URL's path unless it is given."""
    assert load("web: {external_url: 'http://x/push/'}", "c").web.prefix == "/push"
    assert load("web: {external_url: 'http://x/push/', route_prefix: /}", "c").web.prefix == ""
