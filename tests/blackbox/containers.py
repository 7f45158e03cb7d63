"""A container engine and images of receivers, for tests that run them as their users do.

Owns which image stands for a receiver, and where the engine comes from. An image whose name begins with
`pushbridge-debian/` is made here from Debian's binary and its libraries, so that an engine without a way to a
registry has something to run. What is sent to a receiver does not belong here.
"""

import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

_LOCAL = "pushbridge-debian/"
_LIBRARY = re.compile(r"(/\S+) \(0x")
_EMPTY_CONFIG = ("etc/prometheus/prometheus.yml", b"scrape_configs: []\n")
_USUAL_ADDRESS = "unix:///var/run/docker.sock"
_ENGINE_WITHIN_S = 30.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver as it is started from an image."""

    name: str
    image: str
    """The public one; the environment variable `PUSHBRIDGE_TEST_<NAME>_IMAGE` names another, empty names none."""
    command: tuple[str, ...]
    port: int
    write_path: str
    ready_path: str
    query_path: str
    binary: str = ""
    """Debian's, for an image made here."""
    config: str = ""
    """Text of a file that stands at `/config.yml`."""

    @property
    def variable(self) -> str:
        """The environment variable that names the image."""
        return f"PUSHBRIDGE_TEST_{self.name.upper()}_IMAGE"

    @property
    def wanted_image(self) -> str:
        """The image to run, empty for none."""
        return os.environ.get(self.variable, self.image)


@contextmanager
def engine(directory: Path) -> Iterator[docker.DockerClient]:
    """Give the engine that runs already, or one of our own where root may start it; skip where there is none.

    With CI=true there has to be one.
    """
    try:
        client = _connect()
    except DockerException as error:
        if os.geteuid() == 0 and shutil.which("dockerd") is not None:
            with _own_engine(directory) as client:
                yield client
            return
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"no container engine: {error}")
        pytest.skip(f"no container engine: {error}")
    with closing(client):
        yield client


def _connect() -> docker.DockerClient:
    path = os.environ.get("DOCKER_HOST", _USUAL_ADDRESS).removeprefix("unix://")
    if path.startswith("/"):
        # The library leaves a socket open that could not be connected.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                raise DockerException(f"{path}: {error}") from error
    client = docker.from_env()
    client.ping()
    return client


@contextmanager
def _own_engine(directory: Path) -> Iterator[docker.DockerClient]:
    address = f"unix://{directory / 'engine.sock'}"
    log_path = directory / "engine.log"
    flags = [f"--{name}={directory / name}" for name in ("data-root", "exec-root", "pidfile")]
    before = os.environ.get("DOCKER_HOST")
    with (
        log_path.open("wb") as log,
        subprocess.Popen(["dockerd", "-H", address, *flags], stdout=log, stderr=log) as own,
    ):
        # testcontainers looks for its engine there.
        os.environ["DOCKER_HOST"] = address
        try:
            with closing(_await_engine(own, log_path)) as client:
                yield client
        finally:
            if before is None:
                del os.environ["DOCKER_HOST"]
            else:
                os.environ["DOCKER_HOST"] = before
            own.terminate()


def _await_engine(own: "subprocess.Popen[bytes]", log_path: Path) -> docker.DockerClient:
    deadline_s = time.monotonic() + _ENGINE_WITHIN_S
    while own.poll() is None and time.monotonic() < deadline_s:
        try:
            return _connect()
        except DockerException:
            time.sleep(_POLL_S)
    pytest.fail(f"dockerd did not start; its log ends:\n{log_path.read_text(errors='replace')[-2000:]}")


def provide_image(client: docker.DockerClient, receiver: Receiver) -> str:
    """Give the name of an image that is there; skip, with the reason, when it cannot be had."""
    name = receiver.wanted_image
    if not name:
        pytest.skip(f"{receiver.variable} is empty")
    try:
        client.images.get(name)
    except ImageNotFound:
        if name.startswith(_LOCAL):
            _make_image(client, receiver, name)
        else:
            _pull(client, name, receiver)
    return name


def _pull(client: docker.DockerClient, name: str, receiver: Receiver) -> None:
    try:
        client.images.pull(name)
    except DockerException as error:
        pytest.skip(f"cannot pull {name} (name another one in {receiver.variable}): {error}")


def _make_image(client: docker.DockerClient, receiver: Receiver, name: str) -> None:
    path = shutil.which(receiver.binary)
    assert path is not None, f"{receiver.binary} is not installed"
    libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", dereference=True) as archive:
        for file in (path, *_LIBRARY.findall(libraries)):
            archive.add(file, arcname=file.lstrip("/"))
        entry = tarfile.TarInfo(_EMPTY_CONFIG[0])
        entry.size = len(_EMPTY_CONFIG[1])
        archive.addfile(entry, io.BytesIO(_EMPTY_CONFIG[1]))
    repository, _, tag = name.partition(":")
    client.api.import_image_from_data(
        data.getvalue(), repository=repository, tag=tag or "latest", changes=[f'ENTRYPOINT ["{path}"]']
    )
