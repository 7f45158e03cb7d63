"""How an HTTP client signs in, checks certificates and finds its way: Prometheus' inlined client settings.

Owns these settings, their defaults and what contradicts what (protocol.md section 4.2). What is done with them is
`bridge.delivery`'s; the rest of a target is `remote_write`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from bridge.config.faults import Fault, raise_faults
from bridge.config.units import SECRET_ERROR, FilePath, Secret, Section, http_url, is_host, shown_url

# The spec forbids users to override these (protocol.md sections 1.1 and 4.1).
RESERVED_HEADERS = frozenset(
    """host content-encoding content-length content-type user-agent connection keep-alive proxy-authenticate
    proxy-authorization www-authenticate accept-encoding x-prometheus-remote-write-version
    x-prometheus-remote-read-version x-amz-date x-amz-security-token x-amz-content-sha256 retry-attempt
    transfer-encoding""".split()
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

TlsVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]


def sendable(value: str) -> bool:
    """Tell whether a header can carry this value: no line breaks or other control characters."""
    return not _UNSENDABLE.search(value)


def _sendable_secret(value: SecretStr) -> SecretStr:
    if not sendable(value.get_secret_value()):
        raise PydanticCustomError(
            SECRET_ERROR, "a header cannot carry control characters (what was given is not shown)"
        )
    return value


HeaderValue = Annotated[Secret, AfterValidator(_sendable_secret)]
"""Not shown, for headers are where many receivers want their key."""


def header_faults(names: Iterable[str]) -> Iterator[Fault]:
    """Find names that are no header's, reserved or given twice."""
    seen: set[str] = set()
    for name in names:
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            # A missing space after the colon makes the value a part of the name.
            yield (name,), f"not the name of a header: got {name.partition(':')[0]!r}"
        elif lower == "authorization":
            yield (name,), "Authorization cannot be set as a header; use basic_auth, authorization, oauth2 or sigv4"
        elif lower in RESERVED_HEADERS:
            yield (name,), f"{name} is a reserved header and cannot be set"
        elif lower in seen:
            yield (name,), f"{name} is given twice"
        seen.add(lower)


class Block(Section):
    """A block of Prometheus' file, where a key without a value is one that is not given."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}

    def _one_of(self, *keys: str, needed: bool = False) -> Iterator[Fault]:
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) > 1:
            yield (), f"at most one of {', '.join(keys)}"
        if needed and not given:
            yield (), f"one of {', '.join(keys)} is needed"


class BasicAuth(Block):
    """User and password."""

    username: str | None = Field(default=None, description="User.")
    username_file: FilePath | None = Field(default=None, description="File with the user.")
    password: Secret | None = Field(default=None, description="Password.")
    password_file: FilePath | None = Field(default=None, description="File with the password.")

    def _faults(self) -> Iterator[Fault]:
        yield from self._one_of("username", "username_file")
        yield from self._one_of("password", "password_file")


class Authorization(Block):
    """The Authorization header as it is: a bearer token, as a rule."""

    type: str = Field(default="Bearer", description="First word of the header.")
    credentials: Secret | None = Field(default=None, description="The rest of it.")
    credentials_file: FilePath | None = Field(default=None, description="File with the rest of it.")

    def _faults(self) -> Iterator[Fault]:
        yield from self._one_of("credentials", "credentials_file", needed=True)
        if self.type.lower() == "basic":
            yield ("type",), "cannot be Basic; use basic_auth"
        if not _TOKEN.fullmatch(self.type):
            yield ("type",), "not a word"


class TlsConfig(Block):
    """Whose certificates are trusted, and our own."""

    ca: str | None = Field(default=None, description="Certificates to trust (PEM); by default those of the system.")
    ca_file: FilePath | None = Field(default=None, description="File with them.")
    cert: str | None = Field(default=None, description="Our certificate (PEM).")
    cert_file: FilePath | None = Field(default=None, description="File with it.")
    key: Secret | None = Field(default=None, description="Its key (PEM).")
    key_file: FilePath | None = Field(default=None, description="File with it.")
    server_name: str = Field(default="", description="Name that the receiver's certificate must have.")
    insecure_skip_verify: bool = Field(default=False, description="Trust every certificate.")
    min_version: TlsVersion = Field(default="TLS12", description="Oldest TLS.")
    max_version: TlsVersion = Field(default="TLS13", description="Newest TLS.")

    def _faults(self) -> Iterator[Fault]:
        for name in ("ca", "cert", "key"):
            yield from self._one_of(name, f"{name}_file")
        has_cert, has_key = (
            getattr(self, name) is not None or getattr(self, f"{name}_file") is not None for name in ("cert", "key")
        )
        if has_cert != has_key:
            yield (), "a certificate (cert, cert_file) and its key (key, key_file) need each other"
        if self.server_name and not is_host(self.server_name):
            yield ("server_name",), f"not a host name: got {self.server_name!r}"
        if self.min_version > self.max_version:
            yield (), "min_version must not be above max_version"


class Way(Block):
    """TLS and the proxy on the way to a server."""

    tls_config: TlsConfig = Field(default=TlsConfig(), description="TLS.")
    proxy_url: str = Field(default="", description="HTTP proxy.", repr=False)
    no_proxy: str = Field(default="", description="Hosts, domains and networks that are reached without it.")
    proxy_from_environment: bool = Field(default=False, description="Take HTTP_PROXY, HTTPS_PROXY and NO_PROXY.")
    proxy_connect_header: dict[str, tuple[HeaderValue, ...]] = Field(
        default={}, description="Headers of CONNECT requests."
    )

    @field_validator("proxy_url")
    @classmethod
    def _http_proxy(cls, url: str) -> str:
        if url.startswith("socks"):
            msg = f"SOCKS proxies are not supported: got {shown_url(url)!r}, want an http(s) URL"
            raise ValueError(msg)
        return http_url(url) if url else url

    def _faults(self) -> Iterator[Fault]:
        if self.proxy_from_environment and (self.proxy_url or self.no_proxy):
            yield (), "proxy_from_environment excludes proxy_url and no_proxy"
        elif self.no_proxy and not self.proxy_url:
            yield (), "no_proxy needs proxy_url"
        if self.proxy_connect_header and not (self.proxy_url or self.proxy_from_environment):
            yield (), "proxy_connect_header needs proxy_url or proxy_from_environment"


class OAuth2(Way):
    """A token by the client credentials grant."""

    client_id: str = Field(min_length=1, description="Who we are.")
    client_secret: Secret | None = Field(default=None, description="Our secret.")
    client_secret_file: FilePath | None = Field(default=None, description="File with it.")
    grant_type: Literal["client_credentials"] = Field(default="client_credentials", description="The grant.")
    scopes: tuple[str, ...] = Field(default=(), description="What the token is for.")
    token_url: Annotated[str, AfterValidator(http_url)] = Field(description="Who gives tokens.", repr=False)
    endpoint_params: dict[str, Secret] = Field(default={}, description="More parameters of the token request.")

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        yield from self._one_of("client_secret", "client_secret_file")


class HttpHeader(Block):
    """The values of one header."""

    values: tuple[HeaderValue, ...] = Field(default=(), description="Values.")
    secrets: tuple[HeaderValue, ...] = Field(default=(), description="Values.")
    files: tuple[FilePath, ...] = Field(default=(), description="Files, each with one value.")


class HttpClient(Way):
    """The settings that Prometheus inlines into everything that speaks HTTP."""

    http_headers: dict[str, HttpHeader] = Field(default={}, description="More headers, also from files.")
    basic_auth: BasicAuth | None = Field(default=None, description="Sign in with user and password.")
    authorization: Authorization | None = Field(default=None, description="Sign in with a token.")
    oauth2: OAuth2 | None = Field(default=None, description="Sign in with a token from an OAuth 2.0 server.")
    bearer_token: Secret | None = Field(default=None, description="As authorization; deprecated in Prometheus.")
    bearer_token_file: FilePath | None = Field(default=None, description="As authorization; deprecated in Prometheus.")
    follow_redirects: bool = Field(default=True, description="Follow 307 and 308, with the same body.")
    enable_http2: bool = Field(default=False, description="Accepted; HTTP/1.1 is spoken.")

    @field_validator("http_headers")
    @classmethod
    def _unreserved_http_headers(cls, headers: dict[str, HttpHeader]) -> dict[str, HttpHeader]:
        raise_faults(header_faults(headers))
        return headers

    @property
    def token(self) -> Authorization | None:
        """The `authorization` block, also where its deprecated forms are used."""
        if self.bearer_token is None and self.bearer_token_file is None:
            return self.authorization
        return Authorization(credentials=self.bearer_token, credentials_file=self.bearer_token_file)


def split_user(url: str) -> tuple[str, BasicAuth | None]:
    """Take user and password out of a URL."""
    parts = urlsplit(url)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if parts.username is None and parts.password is None:
        return bare, None
    return bare, BasicAuth(username=unquote(parts.username or ""), password=SecretStr(unquote(parts.password or "")))
