"""The agent signs in to a receiver behind a real nginx: passwords, authorities, client certificates, also new ones."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox.load import Client, account, metrics, one_value, settled_account, wait_for
from tests.blackbox.ports import free_port
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent, needs, nginx
from tests.certificates import Authority, Pair, hashed_password

pytestmark = [pytest.mark.real, needs("nginx"), needs("openssl")]


@pytest.fixture
def receiver() -> Iterator[ScriptedReceiver]:
    """What nginx stands in front of."""
    with ScriptedReceiver() as started:
        yield started


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the receiver's certificates."""
    return Authority.make(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Pair:
    """Of the receiver."""
    return authority.sign("receiver", "IP:127.0.0.1", "DNS:receiver.test")


def block(port: int, receiver: ScriptedReceiver, *lines: str) -> str:
    """Return a server of nginx on `port` in front of a receiver; it passes on who the client is."""
    way = f"proxy_set_header X-Client $ssl_client_s_dn; proxy_pass http://127.0.0.1:{receiver.port};"
    listen = f"127.0.0.1:{port} ssl" if lines[0].startswith("ssl") else f"127.0.0.1:{port}"
    return f"server {{ listen {listen}; {' '.join(lines)} location / {{ {way} }} }}\n"


def tls(pair: Pair, *lines: str) -> tuple[str, ...]:
    """Lines of a server with a certificate."""
    return (f"ssl_certificate {pair.cert};", f"ssl_certificate_key {pair.key};", *lines)


def target(url: str, *lines: str) -> str:
    """A configuration with one target; `lines` are in YAML's flow style."""
    return f"remote_write: [{{url: '{url}', name: target, {', '.join(lines)}}}]\n"


def push(server: Server, number: int) -> None:
    """Push a number that the agent has to take."""
    with Client(server.port) as client:
        client.must_accept(one_value("a", number))


def arrived(receiver: ScriptedReceiver, number: int) -> None:
    """Wait until the receiver has a number."""
    receiver.wait_for(lambda requests: any(s.value == number for r in requests for s in r.samples))


def put(path: Path, text: str) -> None:
    """Replace a file as programs that change secrets do: by another one of that name."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def test_password_also_a_new_one(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """Basic auth with a password file lets samples through, and a password that is changed needs no restart."""
    users, password, port = tmp_path / "users", tmp_path / "agent" / "password", free_port()
    password.parent.mkdir()
    put(users, hashed_password("me", "first"))
    put(password, "first\n")
    gate = block(port, receiver, "auth_basic x;", f"auth_basic_user_file {users};")
    config = target(f"http://127.0.0.1:{port}/write", "basic_auth: {username: me, password_file: password}")
    with nginx(tmp_path / "nginx", gate), agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        arrived(receiver, 1)
        put(users, hashed_password("me", "second"))
        put(password, "second\n")
        push(server, 2)
        arrived(receiver, 2)
        assert settled_account(server.port).dropped == {}
        assert "second" not in server.log_tail()


def test_user_in_the_url(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """User and password of the URL are basic auth, and are not in the log when the receiver is away."""
    users, port = tmp_path / "users", free_port()
    put(users, hashed_password("me", "mar/ker"))
    gate = block(port, receiver, "auth_basic x;", f"auth_basic_user_file {users};")
    config = f"remote_write: [{{url: 'http://me:mar%2Fker@127.0.0.1:{port}/write?key=marker'}}]\n"
    with agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        wait_for(server.log_tail, lambda log: "remote_write_failed" in log)
        with nginx(tmp_path / "nginx", gate):
            arrived(receiver, 1)
        assert "?key=marker" in receiver.requests()[0].head
        shown = server.log_tail() + str(metrics(server.port))
        assert not re.search("mar.{0,3}ker", shown)


def test_a_missing_password_file_holds_samples_back(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """While the file is not there nothing is sent or lost, and the log says which file; then all arrives."""
    password = tmp_path / "agent" / "password"
    config = target(receiver.url, "basic_auth: {username: me, password_file: password}")
    with agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        log = wait_for(server.log_tail, lambda log: "remote_write_failed" in log)
        assert f"basic_auth.password_file: cannot read {password}: No such file or directory" in log
        assert (receiver.requests(), account(server.port).balanced) == ([], True)
        assert account(server.port).pending > 0
        put(password, "secret")
        arrived(receiver, 1)
        # The same failure again and again is told now and then, not each time.
        assert server.log_tail().count("cannot read") < 3


def test_wrong_authority_until_it_is_the_right_one(
    tmp_path: Path, receiver: ScriptedReceiver, authority: Authority, certificate: Pair
) -> None:
    """A certificate of another authority is not trusted: samples wait, and arrive when the file is put right."""
    port, ca = free_port(), tmp_path / "agent" / "ca.pem"
    other = Authority.make(tmp_path / "other", "other")
    ca.parent.mkdir()
    put(ca, other.pem.read_text(encoding="utf-8"))
    config = target(f"https://127.0.0.1:{port}/write", "tls_config: {ca_file: ca.pem}")
    gate = block(port, receiver, *tls(certificate))
    with nginx(tmp_path / "nginx", gate), agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        log = wait_for(server.log_tail, lambda log: "remote_write_failed" in log)
        assert "CERTIFICATE_VERIFY_FAILED" in log
        assert receiver.requests() == []
        put(ca, authority.pem.read_text(encoding="utf-8"))
        arrived(receiver, 1)
        assert settled_account(server.port).dropped == {}


@pytest.mark.parametrize(
    ("host", "lines", "fault"),
    [
        ("127.0.0.1", "server_name: receiver.test", ""),
        ("127.0.0.1", "server_name: somebody.else", "Hostname mismatch"),
        ("localhost", "min_version: TLS12", "Hostname mismatch"),
        ("localhost", "insecure_skip_verify: true", ""),
        ("127.0.0.1", "min_version: TLS13", "protocol version"),
    ],
)
def test_names_and_versions(tmp_path: Path, certificate: Pair, host: str, lines: str, fault: str) -> None:
    """The certificate has to have the name that is wanted, and the receiver a TLS version that is new enough."""
    port, ca = free_port(), certificate.cert.parent / "ca.pem"
    config = target(f"https://{host}:{port}/write", f"tls_config: {{ca_file: {ca}, {lines}}}")
    with ScriptedReceiver() as receiver:
        gate = block(port, receiver, *tls(certificate, "ssl_protocols TLSv1.2;"))
        with nginx(tmp_path / "nginx", gate), agent(tmp_path / "agent", config=config) as server:
            push(server, 1)
            if not fault:
                arrived(receiver, 1)
            else:
                assert fault in wait_for(server.log_tail, lambda log: "remote_write_failed" in log)
                assert receiver.requests() == []


def test_client_certificate_also_a_new_one(
    tmp_path: Path, receiver: ScriptedReceiver, authority: Authority, certificate: Pair
) -> None:
    """The receiver sees our certificate, and the next one as soon as its files are there, without a restart."""
    port, agent_files = free_port(), tmp_path / "agent"
    agent_files.mkdir()

    def show(pair: Pair) -> None:
        # Between the two the files do not fit each other, which must cost nothing.
        put(agent_files / "me.pem", pair.cert.read_text(encoding="utf-8"))
        put(agent_files / "me.key", pair.key.read_text(encoding="utf-8"))

    show(authority.sign("first"))
    config = target(
        f"https://127.0.0.1:{port}/write",
        f"tls_config: {{ca_file: {authority.pem}, cert_file: me.pem, key_file: me.key}}",
    )
    gate = block(port, receiver, *tls(certificate, f"ssl_client_certificate {authority.pem}; ssl_verify_client on;"))
    with nginx(tmp_path / "nginx", gate), agent(agent_files, config=config) as server:
        push(server, 1)
        arrived(receiver, 1)
        show(authority.sign("second"))
        push(server, 2)
        arrived(receiver, 2)
        who = [re.findall(r"X-Client: CN=(\w+)", request.head) for request in receiver.requests()]
        assert (who[0], who[-1]) == (["first"], ["second"])
        assert settled_account(server.port).dropped == {}


def test_certificates_in_the_configuration(
    tmp_path: Path, receiver: ScriptedReceiver, authority: Authority, certificate: Pair
) -> None:
    """Authority, certificate and key may stand in the file itself, and the key is left nowhere on the way."""
    port, me = free_port(), authority.sign("inline")
    pems = {"ca": authority.pem, "cert": me.cert, "key": me.key}
    lines = [f'{name}: "{path.read_text(encoding="utf-8")}"'.replace("\n", "\\n") for name, path in pems.items()]
    config = target(f"https://127.0.0.1:{port}/write", f"tls_config: {{{', '.join(lines)}}}")
    gate = block(port, receiver, *tls(certificate, f"ssl_client_certificate {authority.pem}; ssl_verify_client on;"))
    with nginx(tmp_path / "nginx", gate), agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        arrived(receiver, 1)
        assert "X-Client: CN=inline" in receiver.requests()[0].head
        assert "PRIVATE" not in server.log_tail()


def test_a_refused_sign_in_waits_and_tells_no_password(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """While the password is wrong the samples wait, and arrive once it is right; the log tells why, not the secret."""
    users, port = tmp_path / "users", free_port()
    put(users, hashed_password("me", "right"))
    gate = block(port, receiver, "auth_basic x;", f"auth_basic_user_file {users};")
    sign_in = "basic_auth: {username: me, password: marker-secret}, queue_config: {min_backoff: 1ms, max_backoff: 20ms}"
    config = target(f"http://127.0.0.1:{port}/write", sign_in)
    with nginx(tmp_path / "nginx", gate), agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        wait_for(lambda: server.log_tail().count("status=401"), bool)
        assert account(server.port).pending > 0
        assert receiver.requests() == []
        put(users, hashed_password("me", "marker-secret"))
        final = settled_account(server.port)
        assert (final.balanced, final.dead_lettered, final.dropped) == (True, {}, {})
        arrived(receiver, 1)
        assert "marker-secret" not in server.log_tail() + str(metrics(server.port))


def test_through_a_forward_proxy(tmp_path: Path, receiver: ScriptedReceiver) -> None:
    """A request for a host that only the proxy knows goes to the proxy, with the host's name."""
    port = free_port()
    gate = (
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_set_header X-Host $http_host;"
        f" proxy_set_header X-Proxy-Authorization $http_proxy_authorization;"
        f" proxy_pass http://127.0.0.1:{receiver.port}; }} }}\n"
    )
    config = target("http://far.away.test/write", f"proxy_url: 'http://me:marker@127.0.0.1:{port}'")
    with nginx(tmp_path / "nginx", gate), agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        arrived(receiver, 1)
        head = receiver.requests()[0].head
        assert "X-Host: far.away.test\r\n" in head
        assert "X-Proxy-Authorization: Basic bWU6bWFya2Vy\r\n" in head
        assert "marker" not in server.log_tail()


def test_the_proxy_of_the_environment(
    tmp_path: Path, receiver: ScriptedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY counts when the target asks for it."""
    port = free_port()
    gate = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{receiver.port}; }} }}\n"
    monkeypatch.setitem(os.environ, "HTTP_PROXY", f"http://127.0.0.1:{port}")
    config = target("http://far.away.test/write", "proxy_from_environment: true")
    with nginx(tmp_path / "nginx", gate), agent(tmp_path / "agent", config=config) as server:
        push(server, 1)
        arrived(receiver, 1)
