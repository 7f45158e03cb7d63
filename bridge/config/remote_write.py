"""Targets, in the words and with the defaults of Prometheus' `remote_write` block (protocol.md section 4).

Owns the settings of one target, nothing of what is done with them.
"""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from bridge.config.relabel import RelabelConfig
from bridge.config.units import Duration, Section, http_url, positive

# The spec forbids users to override these (protocol.md sections 1.1 and 4.1).
RESERVED_HEADERS = frozenset(
    """host content-encoding content-length content-type user-agent connection keep-alive proxy-authenticate
    proxy-authorization www-authenticate accept-encoding x-prometheus-remote-write-version
    x-prometheus-remote-read-version x-amz-date x-amz-security-token x-amz-content-sha256 retry-attempt""".split()
)


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def unreserved_header(name: str) -> str:
    """Refuse what is no header, or one that is not the user's to set; raises ValueError."""
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"not the name of a header: got {name!r}")
    if name.lower() in RESERVED_HEADERS | {"authorization"}:
        raise ValueError(f"{name} is a reserved header and cannot be set")
    return name


class QueueConfig(Section):
    """The part of Prometheus' queue_config that the sender has so far."""

    max_samples_per_send: Annotated[int, AfterValidator(positive)] = Field(
        default=2000, description="Most samples in one request."
    )
    capacity: Annotated[int, AfterValidator(positive)] = Field(
        default=10_000, description="Most samples of one shard that are read and not yet settled."
    )
    min_shards: Annotated[int, AfterValidator(positive)] = Field(default=1, description="Requests in flight at least.")
    max_shards: Annotated[int, AfterValidator(positive)] = Field(
        default=50, description="Requests in flight at most, when there is a backlog."
    )
    min_backoff: Duration = Field(default="30ms", description="First delay of a retry.")  # type: ignore[assignment]
    max_backoff: Duration = Field(default="5s", description="Longest delay between retries.")  # type: ignore[assignment]

    @model_validator(mode="after")
    def _ordered(self) -> "QueueConfig":
        if not 0 < self.min_backoff <= self.max_backoff:
            msg = "min_backoff must be more than 0 and not more than max_backoff"
            raise ValueError(msg)
        if self.min_shards > self.max_shards:
            msg = "min_shards must not be more than max_shards"
            raise ValueError(msg)
        return self


class RemoteWrite(Section):
    """One target, in the words of Prometheus' remote_write block."""

    url: Annotated[str, AfterValidator(http_url)] = Field(description="remote_write endpoint.")
    name: str = Field(default="", description="Name in metrics and logs; by default the URL without secrets.")
    remote_timeout: Annotated[Duration, AfterValidator(positive)] = Field(
        default="30s",  # type: ignore[assignment]
        description="Limit of one request.",
    )
    headers: dict[str, str] = Field(default={}, description="Extra request headers.")
    queue_config: QueueConfig = Field(default=QueueConfig(), description="Batching and retries.")
    write_relabel_configs: tuple[RelabelConfig, ...] = Field(default=(), description="Rules for what is sent.")
    on_rejected: Literal["split", "drop"] = Field(
        default="split",
        description="When something in a request is refused for good: find it and keep it as dead letter, or drop all.",
    )
    tenant_header: Annotated[str, AfterValidator(unreserved_header)] = Field(
        default="X-Scope-OrgID", description="Header for the tenant that a rule gives."
    )

    @field_validator("headers")
    @classmethod
    def _unreserved(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if name.lower() in RESERVED_HEADERS:
                msg = f"{name} is a reserved header and cannot be set"
                raise ValueError(msg)
        return headers

    @property
    def target(self) -> str:
        """The target's name: as given, or host and path of the URL (never its user or password)."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return self.name or f"{host}{parts.path}"
