"""TLS contexts made of the settings, and made anew when a certificate file changes.

Owns what is trusted and shown in a handshake. Connections are `session`'s; those that are open keep their certificate.
"""

import hashlib
import ssl
import tempfile
from contextlib import ExitStack
from pathlib import Path

from pydantic import SecretStr

from bridge.config.http_client import TlsConfig
from bridge.delivery.secret_file import SignInError, read_secret

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}


class TlsContext:
    """The context for new connections."""

    def __init__(self, settings: TlsConfig) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._made_of = b""

    def current(self) -> ssl.SSLContext:
        """Return the context; another one only when a file says something else. Raises SignInError."""
        settings = self._settings
        digest = hashlib.sha256()
        for name in ("ca_file", "cert_file", "key_file"):
            path: Path | None = getattr(settings, name)
            # Their content, not their times: a file may be rewritten within one tick of the clock.
            digest.update(f"{name} {'' if path is None else read_secret(path, f'tls_config.{name}')}\n".encode())
        if self._context is None or digest.digest() != self._made_of:
            self._context = _make(settings)
            self._made_of = digest.digest()
        return self._context


def _make(settings: TlsConfig) -> ssl.SSLContext:
    # Not create_default_context, which from Python 3.13 on is stricter with private authorities than Prometheus is.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.maximum_version = _VERSIONS[settings.max_version]
    if settings.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if settings.ca is not None or settings.ca_file is not None:
            context.load_verify_locations(settings.ca_file, cadata=settings.ca)
        else:
            context.load_default_certs()
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SignInError(f"tls_config.ca: {_reason(error)}; nothing was sent") from None
    try:
        with ExitStack() as stack:
            cert = _as_file(stack, settings.cert, settings.cert_file)
            key = _as_file(stack, settings.key, settings.key_file)
            if cert is not None:
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SignInError(f"tls_config: certificate and key: {_reason(error)}; nothing was sent") from None
    return context


def _as_file(stack: ExitStack, text: SecretStr | str | None, path: Path | None) -> Path | None:
    """Return a file with a PEM, for the ssl module reads our own certificate from nothing else."""
    if text is None:
        return path
    # Readable by this user only, and gone as soon as it is read.
    file = stack.enter_context(tempfile.NamedTemporaryFile("w", encoding="utf-8"))  # noqa: SIM115 - the stack closes it
    file.write(text.get_secret_value() if isinstance(text, SecretStr) else text)
    file.flush()
    return Path(file.name)


def _reason(error: ssl.SSLError | OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not certificates in PEM form").lower().replace("_", " ")
    return getattr(error, "strerror", None) or "cannot be read"
