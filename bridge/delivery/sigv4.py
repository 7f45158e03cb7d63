"""AWS Signature Version 4: a request and a time in, the headers that sign it out.

Pure. Where keys come from is `aws`; only what the signature of a header needs lives here, not of a URL or of chunks.
"""

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, unquote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Keys:
    """Who signs."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    """Of temporary keys."""


@dataclass(frozen=True, slots=True)
class Scope:
    """For whom a signature is good."""

    region: str
    service: str


def sign(
    method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes, *, keys: Keys, scope: Scope, at: datetime
) -> dict[str, str]:
    """Return the headers to add, `Authorization` among them.

    `url` is as it goes out, `headers` are those to sign beside Host and what is added here, `at` is in UTC.
    """
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    added = {"X-Amz-Date": stamp}
    if keys.session_token:
        added["X-Amz-Security-Token"] = keys.session_token
    signed = _canonical_headers((("Host", _host(url)), *headers, *added.items()))
    names = ";".join(name for name, _ in signed)
    parts = urlsplit(url)
    canonical = "\n".join(
        (
            method,
            _canonical_path(parts.path),
            _canonical_query(parts.query),
            *(f"{name}:{value}" for name, value in signed),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    place = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = "\n".join((_ALGORITHM, stamp, place, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{keys.secret_key}".encode()
    for word in place.split("/"):
        key = _hmac(key, word)
    signature = _hmac(key, text).hex()
    added["Authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key}/{place}, SignedHeaders={names}, Signature={signature}"
    )
    return added


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _host(url: str) -> str:
    """Return the Host header that HTTP clients send: without the port that goes without saying."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    return host.removesuffix(f":{parts.port}") if parts.port == _DEFAULT_PORTS.get(parts.scheme) else host


def _canonical_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    values = defaultdict[str, list[str]](list)
    for name, value in headers:
        values[name.lower()].append(" ".join(value.split()))
    return sorted((name, ",".join(found)) for name, found in values.items())


def _canonical_path(path: str) -> str:
    """Return the path without dots and doubled slashes, encoded once more than it is: all services but S3."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return quote(f"/{'/'.join(kept)}{end}", safe="/~")


def _canonical_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    coded = ((quote(unquote(name), safe="~"), quote(unquote(value), safe="~")) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in sorted(coded))
