"""How a request says who sends it: one interface, and the ways that are short.

Owns the headers of basic auth, of tokens and of the user's own header files. OAuth 2.0 is `oauth2`, AWS `sigv4`; TLS
certificates belong to the connection (`tls`). Nothing here sends.
"""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.config.http_client import Authorization, BasicAuth, HttpHeader, sendable
from bridge.delivery.secret_file import SignInError, read_secret, source


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request that is ready but for its sign-in."""

    method: str
    url: str
    """As it goes out: encoded, without user and password."""
    headers: Mapping[str, str]
    body: bytes


class SignIn(Protocol):
    """A way to sign in; safe to use from several tasks."""

    async def headers(self, request: Outgoing) -> Mapping[str, str]:
        """Return the headers that sign this request, made anew for each one. Raises SignInError."""
        ...

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Take note that `headers` were answered 401; True when other ones may be had now."""
        ...


class Given(ABC):
    """What is given in the settings or in files, which are read for every request."""

    @abstractmethod
    def _now(self) -> Mapping[str, str]: ...

    async def headers(self, request: Outgoing) -> Mapping[str, str]:  # noqa: ARG002 - the interface's
        """Return the headers as the files are now."""
        return self._now()

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a file has changed meanwhile."""
        return any(headers.get(name) != value for name, value in self._now().items())


class Basic(Given):
    """User and password."""

    def __init__(self, settings: BasicAuth) -> None:
        self._username = source(settings.username, settings.username_file, "basic_auth.username")
        self._password = source(settings.password, settings.password_file, "basic_auth.password")

    def _now(self) -> Mapping[str, str]:
        # RFC 7617, in UTF-8.
        pair = f"{self._username()}:{self._password()}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


class Token(Given):
    """A bearer token, or whatever else the Authorization header shall say."""

    def __init__(self, settings: Authorization) -> None:
        self._type = settings.type
        self._credentials = source(settings.credentials, settings.credentials_file, "authorization.credentials")

    def _now(self) -> Mapping[str, str]:
        return {"Authorization": checked(f"{self._type} {self._credentials()}", "authorization")}


class OwnHeaders(Given):
    """The user's headers whose values may be in files; each in one line, as RFC 9110 section 5.3 allows."""

    def __init__(self, settings: Mapping[str, HttpHeader]) -> None:
        self._settings = settings

    def _now(self) -> Mapping[str, str]:
        return {name: ", ".join(self._values(name, header)) for name, header in self._settings.items()}

    def _values(self, name: str, header: HttpHeader) -> Sequence[str]:
        given = [value.get_secret_value() for value in (*header.values, *header.secrets)]
        key = f"http_headers.{name}.files"
        return [*given, *(checked(read_secret(path, key), key) for path in header.files)]


class Together:
    """Several ways for the same request, each of which sees the headers of those before it."""

    def __init__(self, ways: Sequence[SignIn]) -> None:
        self._ways = ways

    async def headers(self, request: Outgoing) -> Mapping[str, str]:
        """Return the headers of all."""
        found: dict[str, str] = {}
        for way in self._ways:
            found.update(await way.headers(request))
        return found

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Tell all of them."""
        told = [way.refused(headers) for way in self._ways]
        return any(told)


def checked(value: str, key: str) -> str:
    """Return a header's value; raises SignInError when no header can carry it."""
    if not sendable(value):
        raise SignInError(f"{key}: has a line break or another control character; nothing was sent")
    return value
