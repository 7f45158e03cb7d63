"""Targets, in the words and with the defaults of Prometheus' `remote_write` block (protocol.md section 4).

Owns the settings of one target, and what of Prometheus' own is refused by name or accepted with a warning. How the
client signs in and finds its way is `http_client`; nothing of what is done with the settings is here.
"""

from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from bridge.config.faults import Fault, raise_faults
from bridge.config.http_client import Block, HeaderValue, HttpClient, header_faults
from bridge.config.relabel import RelabelConfig
from bridge.config.units import Count, Duration, Secret, from_to, http_url, is_text, positive, shown_url

Shards = Annotated[int, AfterValidator(from_to("1", "10000"))]
"""Each is a task and a connection."""
SIGN_INS = ("basic_auth", "authorization", "bearer_token", "bearer_token_file", "oauth2", "sigv4")

_INLINE = "is not supported; give the value itself or a file"
_TLS_REFUSED = {f"tls_config.{name}_ref": _INLINE for name in ("ca", "cert", "key")}
_OAUTH2_REFUSED = {
    f"oauth2.{key}": "is not supported: oauth2 signs in with client_id and client_secret"
    for key in (
        "client_certificate_key_id",
        "client_certificate_key",
        "client_certificate_key_file",
        "client_certificate_key_ref",
        "signature_algorithm",
        "iss",
        "audience",
        "claims",
    )
}
_ROLES = "is not supported: sigv4 assumes no roles; give the keys of a user, or let the environment bring them"
REFUSED = {
    "azuread": "is not supported; use oauth2 with the tenant's token endpoint",
    "google_iam": "is not supported; put a proxy that signs in between",
    "failed_request_logging": "is not supported: refused requests are always logged",
    "basic_auth.username_ref": _INLINE,
    "basic_auth.password_ref": _INLINE,
    "authorization.credentials_ref": _INLINE,
    "oauth2.client_secret_ref": _INLINE,
    "sigv4.role_arn": _ROLES,
    "sigv4.external_id": _ROLES,
    "sigv4.use_fips_sts_endpoint": _ROLES,
    **_TLS_REFUSED,
    **{f"oauth2.{key}": why for key, why in _TLS_REFUSED.items()},
    **_OAUTH2_REFUSED,
}
"""Keys that Prometheus has and we have not, with the reason."""


_PATHS = (
    "want for example /api/v1/push (Mimir, Cortex), /api/v1/receive (Thanos) or /api/v1/write (Prometheus and others)"
)


def _user_header(name: str) -> str:
    for _, words in header_faults([name]):
        raise ValueError(words)
    return name


class QueueConfig(Block):
    """Prometheus' queue_config."""

    capacity: Count = Field(default=10_000, description="Samples read ahead for one shard.")
    max_shards: Shards = Field(default=50, description="Most requests in flight.")
    min_shards: Shards = Field(default=1, description="Fewest requests in flight.")
    max_samples_per_send: Count = Field(default=2000, description="Most samples in one request.")
    batch_send_deadline: Annotated[Duration, AfterValidator(positive)] = Field(
        default="5s",  # type: ignore[assignment]
        description="While there is a backlog, how long a request waits to be full.",
    )
    min_backoff: Duration = Field(default="30ms", description="First delay of a retry.")  # type: ignore[assignment]
    max_backoff: Duration = Field(default="5s", description="Longest delay between retries.")  # type: ignore[assignment]
    retry_on_http_429: bool = Field(default=True, description="Accepted: 429 is always retried.")
    sample_age_limit: Duration = Field(default="0", description="Samples older than this are dropped; 0: none.")  # type: ignore[assignment]

    def _faults(self) -> Iterator[Fault]:
        if not 0 < self.min_backoff <= self.max_backoff:
            got = f"got {self.min_backoff:g}s and {self.max_backoff:g}s"
            yield (), f"min_backoff must be more than 0 and not more than max_backoff, {got}"
        if self.min_shards > self.max_shards:
            yield (), f"min_shards must not be more than max_shards, got {self.min_shards} and {self.max_shards}"


class MetadataConfig(Block):
    """TYPE, HELP and UNIT, sent apart from the samples in remote_write 1.0."""

    send: bool = Field(default=True, description="Send metadata.")
    send_interval: Annotated[Duration, AfterValidator(positive)] = Field(
        default="1m",  # type: ignore[assignment]
        description="How often.",
    )
    max_samples_per_send: Count = Field(default=2000, description="Most families in one request.")


class SigV4(Block):
    """Requests signed as AWS wants them."""

    region: str = Field(default="", description="By default AWS_REGION, or that of the profile.")
    access_key: str | None = Field(default=None, description="By default from the profile or the environment.")
    secret_key: Secret | None = Field(default=None, description="Goes with access_key.")
    profile: str = Field(default="", description="Profile of the shared credentials file.")

    def _faults(self) -> Iterator[Fault]:
        if bool(self.access_key) != bool(self.secret_key):
            yield (), "access_key and secret_key need each other"


class RemoteWrite(HttpClient):
    """One target, in the words of Prometheus' remote_write block."""

    url: Annotated[str, AfterValidator(http_url)] = Field(description="remote_write endpoint.", repr=False)
    name: Annotated[str, AfterValidator(is_text)] = Field(
        default="", description="Name in metrics and logs; by default the URL without secrets."
    )
    remote_timeout: Annotated[Duration, AfterValidator(positive)] = Field(
        default="30s",  # type: ignore[assignment]
        description="Limit of one request.",
    )
    headers: dict[str, HeaderValue] = Field(default={}, description="Extra request headers.")
    protobuf_message: Literal["prometheus.WriteRequest", "io.prometheus.write.v2.Request"] = Field(
        default="prometheus.WriteRequest", description="remote_write 1.0 or 2.0."
    )
    send_exemplars: bool = Field(default=False, description="Send exemplars.")
    send_native_histograms: bool = Field(default=False, description="Send native histograms.")
    round_robin_dns: bool = Field(default=False, description="Accepted: connections go round all addresses anyway.")
    queue_config: QueueConfig = Field(default=QueueConfig(), description="Batching and retries.")
    write_relabel_configs: tuple[RelabelConfig, ...] = Field(default=(), description="Rules for what is sent.")
    on_rejected: Literal["split", "drop"] = Field(
        default="split",
        description="When something in a request is refused for good: find it and keep it as dead letter, or drop all.",
    )
    tenant_header: Annotated[str, AfterValidator(_user_header)] = Field(
        default="X-Scope-OrgID", description="Header for the tenant that a rule gives."
    )
    metadata_config: MetadataConfig = Field(default=MetadataConfig(), description="Metadata.")
    sigv4: SigV4 | None = Field(default=None, description="Sign in to AWS.")

    @field_validator("headers")
    @classmethod
    def _unreserved(cls, headers: dict[str, HeaderValue]) -> dict[str, HeaderValue]:
        raise_faults(header_faults(headers))
        return headers

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        tokens = list(self._one_of("authorization", "bearer_token", "bearer_token_file"))
        yield from tokens or self._one_of(*SIGN_INS)
        yield from header_faults((*self.headers, *self.http_headers))

    @property
    def target(self) -> str:
        """The target's name: as given, or host and path of the URL (never its user, password or query)."""
        return self.name or shown_url(self.url).partition("://")[2]

    @property
    def warnings(self) -> Iterator[tuple[str, str]]:
        """What is accepted and does not do what it says, or is hardly meant: key and words."""
        if urlsplit(self.url).path in {"", "/"}:
            yield "url", f"has no path; {_PATHS}"
        if self.enable_http2:
            yield "enable_http2", "accepted, but HTTP/1.1 is spoken"
        if not self.queue_config.retry_on_http_429:
            yield "queue_config.retry_on_http_429", "accepted, but 429 is always retried: nothing is lost by waiting"
