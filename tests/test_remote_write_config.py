"""Prometheus' remote_write block in our file: pasted as it is, refused by name, and what its values mean."""

from pathlib import Path

import pytest

from bridge.config.file import Config, load
from bridge.config.remote_write import REFUSED, RemoteWrite
from bridge.errors import ConfigError

PASTED = """\
remote_write:
  # The shape of Prometheus' documentation, every key that we take.
  - url: "https://mimir.example.com/api/v1/push"
    remote_timeout: 1m30s
    headers:
      X-Scope-OrgID: 007
      X-Other: no
    name: mimir
    send_exemplars: true
    send_native_histograms: true
    protobuf_message: io.prometheus.write.v2.Request
    round_robin_dns: true
    queue_config:
      capacity: 2500
      max_shards: 200
      min_shards: 2
      max_samples_per_send: 500
      batch_send_deadline: 10s
      min_backoff: 50ms
      max_backoff: 10s
      retry_on_http_429: true
      sample_age_limit: 1d
    metadata_config:
      send: false
      send_interval: 5m
      max_samples_per_send: 100
    basic_auth:
      username: 12345
      password: 0123
    tls_config: &tls
      ca_file: certs/ca.pem
      cert_file: /etc/client.pem
      key_file: client.key
      server_name: mimir
      insecure_skip_verify: false
      min_version: TLS13
    proxy_url: http://proxy.example.com:3128
    no_proxy: 10.0.0.0/8,example.org
    proxy_connect_header:
      X-Team: [a, b]
    follow_redirects: true
    enable_http2: true
    http_headers:
      X-Key:
        values: [v]
        secrets: [s]
        files: [key]
    write_relabel_configs:
      - source_labels: [__name__]
        regex: go_.*
        action: drop
      - {target_label: shard, replacement: 1}
  - url: https://cortex.example.com/push
    authorization: {type: Bearer, credentials_file: token}
  - url: https://old.example.com/push
    bearer_token_file: token
  - url: https://thanos.example.com/receive
    oauth2:
      client_id: id
      client_secret_file: secret
      scopes: [write]
      token_url: https://idp.example.com/token
      endpoint_params: {audience: metrics}
      tls_config:
        <<: *tls
      proxy_from_environment: true
  - url: https://aps.example.com/remote_write
    sigv4: {region: eu-west-1, access_key: AKID, secret_key: s, profile: p}
  - url: https://plain.example.com/write
    name:
    basic_auth:
    headers:
    queue_config:
"""


def target(*lines: str) -> RemoteWrite:
    """The one target of a file with these lines."""
    return block(*lines).remote_write[0]


def block(*lines: str) -> Config:
    """A file with one target, whose lines begin in its third."""
    return load("\n".join(["remote_write:", "  - url: http://x/", *(f"    {line}" for line in lines)]), "dir/c.yml")


def test_a_pasted_block() -> None:
    """Every key of a block from a Prometheus is taken, with the meaning that it has there."""
    mimir, cortex, old, thanos, aps, plain = load(PASTED, "/etc/pushbridge/c.yml").remote_write
    assert (mimir.target, mimir.remote_timeout) == ("mimir", 90)
    assert {name: value.get_secret_value() for name, value in mimir.headers.items()} == {
        "X-Scope-OrgID": "007",
        "X-Other": "no",
    }
    assert mimir.basic_auth is not None
    assert mimir.basic_auth.password is not None
    assert (mimir.basic_auth.username, mimir.basic_auth.password.get_secret_value()) == ("12345", "0123")
    assert (mimir.queue_config.max_shards, mimir.queue_config.sample_age_limit) == (200, 86400)
    assert (mimir.metadata_config.send, mimir.metadata_config.send_interval) == (False, 300)
    files = (mimir.tls_config.ca_file, mimir.tls_config.cert_file, mimir.http_headers["X-Key"].files[0])
    assert files == (Path("/etc/pushbridge/certs/ca.pem"), Path("/etc/client.pem"), Path("/etc/pushbridge/key"))
    assert [rule.replacement for rule in mimir.write_relabel_configs] == ["$1", "1"]
    assert cortex.token is not None
    assert cortex.token == old.token
    assert cortex.token.credentials_file == Path("/etc/pushbridge/token")
    assert thanos.oauth2 is not None
    assert thanos.oauth2.tls_config.key_file == Path("/etc/pushbridge/client.key")
    assert aps.sigv4 is not None
    assert aps.sigv4.region == "eu-west-1"
    assert plain == RemoteWrite(url="https://plain.example.com/write")


def test_defaults() -> None:
    """A URL alone gives the defaults of Prometheus 3."""
    plain = target()
    assert (plain.remote_timeout, plain.follow_redirects, plain.enable_http2) == (30, True, False)
    assert plain.protobuf_message == "prometheus.WriteRequest"
    queue = plain.queue_config
    assert (queue.capacity, queue.max_shards, queue.min_shards) == (10_000, 50, 1)
    assert (queue.max_samples_per_send, queue.batch_send_deadline, queue.sample_age_limit) == (2000, 5, 0)
    assert (queue.min_backoff, queue.max_backoff) == (0.03, 5)
    metadata = plain.metadata_config
    assert (metadata.send, metadata.send_interval, metadata.max_samples_per_send) == (True, 60, 2000)
    assert (plain.tls_config.min_version, plain.tls_config.insecure_skip_verify) == ("TLS12", False)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_refused_by_name(key: str) -> None:
    """A key of Prometheus' that we have not is refused with its line, its name and why."""
    *outer, last = key.split(".")
    lines = [f"{'  ' * at}{name}:" for at, name in enumerate(outer)]
    with pytest.raises(ConfigError) as caught:
        block(*lines, f"{'  ' * len(outer)}{last}: x")
    assert f"dir/c.yml:{3 + len(outer)}: remote_write.0.{key} {REFUSED[key]}" in str(caught.value).splitlines()
    assert "is not supported" in REFUSED[key]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["urls: x"], r"c.yml:3: unknown key remote_write.0.urls"),
        (["queue_config: {shards: 1}"], r"c.yml:3: unknown key remote_write.0.queue_config.shards"),
        (["headers: {Host: x}"], "Host is a reserved header"),
        (["headers: {X-AMZ-Date: x}"], "X-AMZ-Date is a reserved header"),
        (["headers: {authorization: x}"], "use basic_auth, authorization, oauth2 or sigv4"),
        (["http_headers: {Authorization: {values: [x]}}"], "use basic_auth, authorization, oauth2 or sigv4"),
        (["headers: {'X Y': x}"], "not the name of a header"),
        (["headers: {X-A: x, x-a: y}"], "x-a is given twice"),
        (["headers: {X-A: x}", "http_headers: {x-a: {values: [y]}}"], "x-a is given twice"),
        (['headers: {X-A: "a\\r\\nX-B: b"}'], r"c.yml:3: remote_write.0.headers.X-A: a header cannot carry"),
        (["basic_auth: {username: u}", "sigv4: {}"], "at most one of basic_auth, authorization"),
        (["bearer_token: x", "bearer_token_file: x"], "at most one of authorization, bearer_token"),
        (["bearer_token: x", "oauth2: {client_id: x, token_url: http://x}"], "at most one of"),
        (["basic_auth: {username: u, username_file: u}"], r"c.yml:3: .*at most one of username, username_file"),
        (["basic_auth: {password: u, password_file: u}"], "at most one of password, password_file"),
        (["authorization: {}"], "one of credentials, credentials_file is needed"),
        (["authorization: {type: Basic, credentials: x}"], "use basic_auth"),
        (["oauth2: {client_id: x}"], r"remote_write.0.oauth2.token_url: is missing"),
        (["oauth2: {client_id: x, token_url: x}"], "not an http"),
        (["oauth2: {client_id: x, token_url: http://x, grant_type: 'urn:jwt'}"], "client_credentials"),
        (["sigv4: {access_key: x}"], "access_key and secret_key need each other"),
        (["tls_config: {ca: x, ca_file: x}"], "at most one of ca, ca_file"),
        (["tls_config: {cert_file: x}"], "need each other"),
        (["tls_config: {min_version: SSL3}"], "'TLS10'.*got 'SSL3'"),
        (["tls_config: {min_version: TLS13, max_version: TLS12}"], "min_version must not be above"),
        (["tls_config: {server_name: a..b}"], "server_name: not a host name"),
        (["proxy_url: http://a..b"], "not an http"),
        (["proxy_url: socks5://x"], "SOCKS proxies are not supported"),
        (["no_proxy: x"], "no_proxy needs proxy_url"),
        (["proxy_url: http://x", "proxy_from_environment: true"], "proxy_from_environment excludes"),
        (["proxy_connect_header: {X: [y]}"], "proxy_connect_header needs"),
        (["protobuf_message: v2"], r"'prometheus.WriteRequest' or 'io.prometheus.write.v2.Request'"),
        (["queue_config: {max_shards: 1, min_shards: 2}"], "min_shards must not be more than max_shards"),
        (["queue_config: {capacity: 0}"], "want from 1 to 1000000000, got .0."),
        (["queue_config: {min_backoff: 10s}"], "min_backoff"),
        (["metadata_config: {send_interval: 0}"], "must be more than 0"),
    ],
)
def test_what_contradicts_itself(lines: list[str], message: str) -> None:
    """What Prometheus refuses is refused, with the key and what is wanted."""
    with pytest.raises(ConfigError, match=message):
        block(*lines)


def test_warnings() -> None:
    """What is accepted and does something else is told with target, key and what it does."""
    assert list(target("name: a").warnings) == [("url", next(target().warnings)[1])]
    lines = ["enable_http2: true", "queue_config: {retry_on_http_429: false}"]
    assert [key for key, _ in target(*lines).warnings] == ["url", "enable_http2", "queue_config.retry_on_http_429"]
