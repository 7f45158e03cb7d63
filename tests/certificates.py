"""Certificates of a test's own authority, made by the openssl command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates; `pem` is what trusts them."""

    directory: Path
    pem: Path

    @classmethod
    def make(cls, directory: Path, name: str = "authority") -> "Authority":
        """Make a new one."""
        directory.mkdir(parents=True, exist_ok=True)
        pem = directory / "ca.pem"
        _openssl("req", "-x509", *_KEY, "-keyout", directory / "ca.key", "-out", pem, "-subj", f"/CN={name}")
        return cls(directory, pem)

    def sign(self, name: str, *alternative: str) -> Pair:
        """Make a certificate called `name`, for hosts such as `IP:127.0.0.1` if there are any."""
        pair = Pair(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(alternative)}\n" if alternative else "", encoding="utf-8")
        _openssl("req", *_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        ca = ("-CA", self.pem, "-CAkey", self.directory / "ca.key", "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *ca, "-extfile", extensions, "-out", pair.cert)
        return pair


def hashed_password(user: str, password: str) -> str:
    """Return a line of a password file, as htpasswd writes it."""
    done = subprocess.run(["openssl", "passwd", "-apr1", password], check=True, capture_output=True, text=True)
    return f"{user}:{done.stdout.strip()}\n"


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
