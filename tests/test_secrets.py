"""Secrets are shown nowhere: not in errors of the configuration, reprs, logs, answers or help."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, SecretStr

from bridge.cli import main
from bridge.config.file import load
from bridge.config.remote_write import RemoteWrite
from bridge.errors import ConfigError
from tests.blackbox.load import Client, one_value, request, wait_for
from tests.blackbox.servers import agent

MARKER = "hunter2"
URL = f"http://user:{MARKER}@127.0.0.1:1/write?key={MARKER}#{MARKER}"
SIGN_INS = {
    "basic_auth": {"username": "u", "password": MARKER},
    "authorization": {"credentials": MARKER},
    "bearer_token": MARKER,
    "oauth2": {
        "client_id": "id",
        "client_secret": MARKER,
        "token_url": f"http://u:{MARKER}@127.0.0.1:1/token?{MARKER}",
        "endpoint_params": {"p": MARKER},
        "proxy_url": f"http://u:{MARKER}@127.0.0.1:1",
    },
    "sigv4": {"region": "r", "access_key": "k", "secret_key": MARKER},
    "tls_config": {"cert": "no PEM", "key": MARKER},
}
SECRETIVE = {
    "url": URL,
    "headers": {"X-Key": MARKER},
    "http_headers": {"X-Other": {"values": [MARKER], "secrets": [MARKER]}},
    "proxy_url": f"http://u:{MARKER}@127.0.0.1:1",
    "proxy_connect_header": {"X-Key": [MARKER]},
}


def secrets(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all keys that hold secrets."""
    for name, field in model.model_fields.items():
        yield from _in_type(field.annotation, (*path, name))


def _in_type(annotation: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if annotation is SecretStr:
        yield path
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from secrets(annotation, path)
    for inner in get_args(annotation):
        if inner is not str:
            yield from _in_type(inner, (*path, "X-Name") if getattr(annotation, "__origin__", 0) is dict else path)


def refusal(value: dict[str, Any] | str) -> str:
    """What loading this as a target says."""
    text = value if isinstance(value, str) else f"remote_write: [{value!r}]"
    with pytest.raises(ConfigError) as caught:
        load(text, "c.yml")
    return f"{caught.value}{caught.value.__cause__ or ''}"


PATHS = sorted(set(secrets(RemoteWrite)))


def test_the_secret_keys_are_found() -> None:
    """The walk over the settings sees them all, so that the tests below miss none."""
    assert {path[-1] if path[-1] != "X-Name" else path[-2] for path in PATHS} == {
        *("password", "credentials", "bearer_token", "client_secret", "secret_key", "key"),
        *("headers", "values", "secrets", "proxy_connect_header", "endpoint_params"),
    }


@pytest.mark.parametrize("path", PATHS, ids=".".join)
@pytest.mark.parametrize("bad", [[MARKER], {MARKER: MARKER}, [[MARKER]], {"a": MARKER}], ids=repr)
def test_a_bad_value_is_not_quoted(path: tuple[str, ...], bad: object) -> None:
    """An error about a secret key names the key and not what it was given."""
    if isinstance(bad, list) and path[-1] in {"values", "secrets"}:
        bad = [bad]
    value: Any = bad
    for name in reversed(path):
        value = {name: value}
    said = refusal({"url": "http://x/", **value})
    assert path[0] in said
    assert MARKER not in said.replace(f"X-Name.{MARKER}", "")


@pytest.mark.parametrize(
    "text",
    [
        f"remote_write: [{{url: 'ftp://u:{MARKER}@x'}}]",
        f"remote_write: [{{url: 'http://u:{MARKER}@x:port/'}}]",
        f"remote_write: [{{url: 'http://u:{MARKER}/@/'}}]",
        f"remote_write: [{{url: 'http://x', proxy_url: 'ftp://u:{MARKER}@x'}}]",
        f"remote_write: [{{url: 'http://x', proxy_url: 'socks5://u:{MARKER}@x'}}]",
        f"remote_write: [{{url: 'http://x', basic_auth: 'u:{MARKER}'}}]",
        f"remote_write: [{{url: 'http://x', headers: 'X: {MARKER}'}}]",
        f"remote_write: [{{url: 'http://x', headers: {{X-Key:{MARKER}}}}}]",
        f'remote_write: [{{url: "http://x", headers: {{X-Key: "{MARKER}\\n"}}}}]',
        f"remote_write: [{{url: 'http://u:{MARKER}@a..b/path?{MARKER}'}}]",
        f"remote_write: [{{url: 'http://x', bearer_token: {MARKER}, sigv4: {{}}}}]",
        f"remote_write: [{{url: 'http://x', basic_auth: {{password: {MARKER}, password_file: x}}}}]",
        f"remote_write: [{{url: 'http://u:{MARKER}@x?{MARKER}'}}, {{url: 'http://u:{MARKER}@x?{MARKER}'}}]",
        f"remote_write: 'http://u:{MARKER}@x'",
        f"remote_write: ['http://u:{MARKER}@x']",
        f"remote_write: [{{url: 'http://x', bearer_token: *{MARKER}}}]",
        f"remote_write: [{{url: 'http://x', bearer_token: !{MARKER} x}}]",
        f"remote_write: [{{url: 'http://x', bearer_token: '{MARKER}]",
        f"remote_write:\n - url: x\n   bearer_token: %{MARKER}\n",
        f"remote_write:\n - url: http://x\n   bearer_token: {MARKER}\n  a: b\n",
    ],
)
def test_mistakes_around_secrets(text: str) -> None:
    """Whatever is wrong beside or around a secret, the error leaves it out."""
    assert MARKER not in refusal(text)


@pytest.mark.parametrize("sign_in", sorted(SIGN_INS))
def test_nothing_that_runs_shows_them(tmp_path: Path, sign_in: str) -> None:
    """Reprs, check-config, the log, every answer of a running agent that cannot deliver: no secret anywhere."""
    text = f"log: {{level: debug}}\nremote_write: [{ ({**SECRETIVE, sign_in: SIGN_INS[sign_in]})!r}]\n"
    config = load(text, "c.yml")
    shown = [repr(config), str(config), config.remote_write[0].target]
    file = tmp_path / "c.yml"
    file.write_text(text, encoding="utf-8")
    shown.append(CliRunner().invoke(main, ["check-config", str(file)]).output)
    shown.append(CliRunner().invoke(main, ["run", "--help"]).output)
    with agent(tmp_path / "agent", config=text) as server:
        with Client(server.port) as client:
            client.must_accept(one_value("a", 1))
        shown.append(wait_for(server.log_tail, lambda log: "remote_write_failed" in log))
        assert "remote_write_failed" in shown[-1]
        shown += [request(server.port, "GET", path).text for path in ("/api/v1/status", "/metrics", "/api/v1/pushes")]
        server.stop()
        shown.append(server.log_tail(1 << 20))
    assert all(shown)
    assert [text for text in shown if MARKER in text] == []
