import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.file import load
from bridge.config.units import split_address
from bridge.errors import ConfigError
from bridge.sizes import parse_size_bytes, size_text


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


@given(st.integers(1, 10**15))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    """What is shown of a size may be put into a configuration, and is as short as it can be."""
    assert parse_size_bytes(size_text(size)) == size
    assert len(size_text(size)) <= len(str(size))


def test_sizes_keep_their_units() -> None:
    """Round numbers are shown with the unit that makes them round."""
    assert [size_text(size) for size in (1 << 30, 64_000_000, 1024, 1500)] == ["1GiB", "64MB", "1KiB", "1500"]


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
        ("remote_write:\n  - name: a\n", r"c.yml:2: remote_write.0.url: is missing"),
        ("remote_write:\n  - url: ftp://x\n", r"c.yml:2: remote_write.0.url: not an http\(s\) URL"),
        ("remote_write:\n  - url: http://x/\n  - url: http://x/\n", r"two remote_write targets are called 'x/'"),
        ("remote_write:\n  - url: http://x/\n    headers:\n      Host: y\n", r"c.yml:4: .*Host is a reserved header"),
        ("rules:\n  - match: {}\n    grace: 1h\n", r"c.yml:2: rules.0: grace needs expect_every"),
        ("rules:\n  - match: {}\n    expect_every: 0\n", r"c.yml:3: rules.0.expect_every: must be more than 0"),
        ("rules:\n  - match: {}\n    runs: {metric: a}\n", r"c.yml:3: unknown key rules.0.runs.metric"),
        ("remote_write:\n  - url: http://x/\n    tenant_header: Host\n", r"c.yml:3: .*Host is a reserved header"),
        (
            "remote_write:\n  - url: http://x/\n    tenant_header: 'a b'\n",
            r"c.yml:3: .*not the name of a header: got 'a b'",
        ),
        ("rules:\n  - match: {}\n    tenant: '{a b}'\n", r"c.yml:3: rules.0.tenant: .*{a b} is no label"),
        ("storage:\n  max_bytes: 100\n", r"c.yml:2: storage.max_bytes: want from 1MiB to 16TiB, got '100'"),
        ("storage:\n  max_bytes: 99999TiB\n", r"c.yml:2: storage.max_bytes: want from 1MiB to 16TiB, got '99999TiB'"),
        ("storage:\n  path: ''\n", r"c.yml:2: storage.path: got nothing, want a path"),
        (f"storage:\n  max_dead_letters: {10**20}\n", r"c.yml:2: storage.max_dead_letters: want from 1 to 1000000000"),
        ("push:\n  max_body_bytes: 1\n", r"c.yml:2: push.max_body_bytes: want from 1KiB to 1GiB, got '1'"),
        ("push:\n  max_series_per_push: -5\n", r"c.yml:2: push.max_series_per_push: want from 1 .* got '-5'"),
        ("push:\n  max_label_name_length: -1\n", r"c.yml:2: push.max_label_name_length: want from 0 .* got '-1'"),
        (
            "push:\n  max_label_name_length: 1.5\n",
            r"c.yml:2: push.max_label_name_length: want a whole number, got '1.5'",
        ),
        ("push:\n  hold_interval: 5m\n", r"c.yml:2: push.hold_interval: must be from 1s to less than 5m"),
        ("web:\n  enable_lifecycle: maybe\n", r"c.yml:2: web.enable_lifecycle: want true or false, got 'maybe'"),
        ("web:\n  listen_address: http://x:80\n", r"c.yml:2: web.listen_address: not an address: got 'http://x:80'"),
        ("web:\n  listen_address: '::1:80'\n", r"c.yml:2: web.listen_address: not an address: got '::1:80'"),
        ("web:\n  listen_address: 256.0.0.1:80\n", r"c.yml:2: web.listen_address: not an address"),
        ("web:\n  listen_address: '[::1:80'\n", r"c.yml:2: web.listen_address: not an address"),
        ("web:\n  external_url: example.org\n", r"c.yml:2: web.external_url: not an http\(s\) URL: got 'example.org'"),
        ("web:\n  external_url: http://x/?p=1\n", r"c.yml:2: web.external_url: got 'http://x/' with more behind it"),
        ("web:\n  route_prefix: /a?b\n", r"c.yml:2: web.route_prefix: not a path: got '/a\?b'"),
        ("web:\n  route_prefix: /a/../b\n", r"c.yml:2: web.route_prefix: not a path"),
        ("web: x\n", r"c.yml:1: web: want a mapping, got a text"),
        ("rules: x\n", r"c.yml:1: rules: want a list, got a text"),
        (
            "push:\n  forget_after: 7d\nrules:\n  - match: {}\n    expect_every: 6d\n    grace: 1d\n",
            r"c.yml:5: rules.0.expect_every: got 1w with its grace, want less than push.forget_after=1w",
        ),
        (
            "rules:\n  - match: {}\n    runs: {success_metric: job ok}\n",
            r"c.yml:3: rules.0.runs.success_metric: got 'job ok', want the name of a metric",
        ),
        ('global:\n  external_labels: {a: "\\ud800"}\n', r"c.yml:2: global.external_labels.a: got .*want printable"),
        ("textfile:\n  - directory: ''\n", r"c.yml:2: textfile.0.directory: got nothing, want a path"),
        ("textfile:\n  - directory: /x\n  - directory: /x\n", r"c.yml:3: textfile.1.directory: /x is given twice"),
        (
            "remote_write:\n  - url: http://x/\n    queue_config:\n      max_shards: 100000000\n",
            r"c.yml:4: remote_write.0.queue_config.max_shards: want from 1 to 10000, got '100000000'",
        ),
        (
            "remote_write:\n  - url: http://x/\n    queue_config: {min_backoff: 10s}\n",
            r"c.yml:3: .*min_backoff must be .* not more than max_backoff, got 10s and 5s",
        ),
        ("remote_write:\n  - url: http://x/\n    name: ' '\n", r"c.yml:3: remote_write.0.name: got ' '"),
        (
            "remote_write:\n  - url: http://x/\n    oauth2: {client_id: '', token_url: http://t/}\n",
            r"c.yml:3: remote_write.0.oauth2.client_id: want a text that is not empty",
        ),
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
