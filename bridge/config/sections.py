"""The settings of the agent itself, declared once: name, type, default, help.

The command line builds its flags from these declarations; nothing else invents a default. Targets are
`remote_write`, the file and its errors `file`.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from bridge.config.faults import Fault, raise_faults
from bridge.config.units import (
    LABEL_NAME,
    Count,
    Duration,
    Limit,
    Section,
    Size,
    Ttl,
    below_lookback,
    checked_address,
    checked_prefix,
    from_to,
    is_text,
    label_faults,
    own_url,
    positive,
    some_path,
)
from bridge.regex import compile_anchored
from bridge.sizes import parse_size_bytes
from bridge.tenant import parse_template


class Global(Section):
    """Settings for everything that is sent."""

    external_labels: dict[str, Annotated[str, AfterValidator(is_text)]] = Field(
        default={}, description="Labels added to every series that lacks them."
    )

    @field_validator("external_labels")
    @classmethod
    def _names(cls, labels: dict[str, str]) -> dict[str, str]:
        raise_faults(label_faults(labels))
        return labels


class Web(Section):
    """The push API's listener."""

    listen_address: Annotated[str, AfterValidator(checked_address)] = Field(
        default="127.0.0.1:9091", description="Address to listen on for pushes and the API."
    )
    external_url: Annotated[str, AfterValidator(own_url)] = Field(
        default="", description="URL under which the agent is reachable from outside; its path is the route prefix."
    )
    route_prefix: Annotated[str, AfterValidator(checked_prefix)] = Field(
        default="", description="Prefix for all HTTP paths; by default the path of web.external-url."
    )
    enable_admin_api: bool = Field(default=False, description="Allow PUT /api/v1/admin/wipe.")
    enable_lifecycle: bool = Field(default=False, description="Allow PUT or POST /-/quit and /-/reload.")
    expose_groups: Literal["auto", "true", "false"] = Field(
        default="auto", description="Show pushed groups on /metrics; auto: only when no target is configured."
    )

    @field_validator("expose_groups", mode="before")
    @classmethod
    def _yaml_bool(cls, value: object) -> object:
        return str(value).lower()

    @cached_property
    def prefix(self) -> str:
        """Route prefix that starts with `/` and does not end with one, or nothing."""
        path = (self.route_prefix or urlsplit(self.external_url).path).strip("/")
        return f"/{path}" if path else ""


class Storage(Section):
    """The journal on disk."""

    path: Annotated[Path, BeforeValidator(some_path)] = Field(
        default=Path("data"), description="Directory of the journal; one agent per directory."
    )
    retention: Duration = Field(default="24h", description="How long delivered pushes are kept for history.")  # type: ignore[assignment]
    max_bytes: Annotated[Size, AfterValidator(from_to("1MiB", "16TiB", parse_size_bytes))] = Field(
        default="1GiB",  # type: ignore[assignment]
        description="Bound of the journal file.",
    )
    when_full: Literal["reject", "drop_oldest"] = Field(
        default="reject",
        description="When undelivered pushes fill the journal: reject pushes with 503, or drop the oldest.",
    )

    max_dead_letters: Count = Field(
        default=100_000, description="Most samples kept as dead letters; the oldest go first."
    )
    dead_letter_retention: Duration = Field(default="30d", description="How long dead letters are kept.")  # type: ignore[assignment]

    @property
    def spool(self) -> Path:
        """The spool directory that every agent has."""
        return self.path / "spool"


class Push(Section):
    """What a push may contain, how it is read and how long it is visible."""

    default_ttl: Ttl = Field(
        default="25h",  # type: ignore[assignment]
        description="How long pushed values stay visible: 0 = sent once, inf = until deleted.",
    )
    hold_interval: Annotated[Duration, AfterValidator(below_lookback)] = Field(
        default="60s",  # type: ignore[assignment]
        description="How often visible values are repeated to the targets; from 1s to less than 5m.",
    )
    forget_after: Annotated[Duration, AfterValidator(positive)] = Field(
        default="30d",  # type: ignore[assignment]
        description="How long the push times of a group stay visible after its last push.",
    )
    timestamps: Literal["accept", "reject"] = Field(
        default="accept", description="Samples with explicit timestamps: keep them, or refuse the push as Pushgateway."
    )
    bucket_labels: Literal["canonical", "as_pushed"] = Field(
        default="canonical", description="Spelling of le and quantile: as Prometheus 3 stores them, or as pushed."
    )
    enable_utf8_names: bool = Field(default=False, description="Accept UTF-8 metric and label names.")
    max_body_bytes: Annotated[Size, AfterValidator(from_to("1KiB", "1GiB", parse_size_bytes))] = Field(
        default="64MiB",  # type: ignore[assignment]
        description="Largest body, also after decompression.",
    )
    max_series_per_push: Count = Field(default=100_000, description="Most series that one push may carry.")
    max_label_names_per_series: Limit = Field(
        default=30, description="Most labels of one series, as Mimir counts them; 0: no limit."
    )
    max_label_name_length: Limit = Field(default=1024, description="Longest label name in bytes; 0: no limit.")
    max_label_value_length: Limit = Field(default=2048, description="Longest label value in bytes; 0: no limit.")


class RunsRule(Section):
    """How runs are read from the pushes of jobs that do not report them."""

    success_metric: str = Field(
        default="", description="Each push with this metric is a run; it succeeded when the value is not 0."
    )


class Rule(Section):
    """What holds for the groups that match; the first rule that matches a group is the only one."""

    match: dict[str, str] = Field(description="Grouping label to pattern (RE2, anchored); all must match.")
    ttl: Ttl | None = Field(default=None, description="In place of push.default_ttl.")
    expect_every: Annotated[Duration, AfterValidator(positive)] | None = Field(
        default=None, description="A run, or a push where there are no runs, is expected this often."
    )
    grace: Duration = Field(default="0", description="How late it may be.")  # type: ignore[assignment]
    max_runtime: Annotated[Duration, AfterValidator(positive)] = Field(
        default="24h",  # type: ignore[assignment]
        description="A run that started longer ago and has not ended is lost.",
    )
    runs: RunsRule = Field(default=RunsRule(), description="Runs of jobs that only push.")

    tenant: str = Field(
        default="", description='Tenant of the samples at every target, from labels of the group: "{team}".'
    )

    @field_validator("tenant")
    @classmethod
    def _tenant_template(cls, tenant: str) -> str:
        if tenant:
            parse_template(tenant)
        return tenant

    @field_validator("match")
    @classmethod
    def _patterns(cls, match: dict[str, str]) -> dict[str, str]:
        raise_faults(_match_faults(match))
        return match

    def _faults(self) -> Iterator[Fault]:
        if self.grace and self.expect_every is None:
            yield (), "grace needs expect_every"


def _match_faults(match: dict[str, str]) -> Iterator[Fault]:
    for name, pattern in match.items():
        if not LABEL_NAME.fullmatch(name):
            yield (name,), f"not a label name: got {name!r}"
        try:
            compile_anchored(pattern)
        except ValueError as error:
            yield (name,), str(error)


class Textfile(Section):
    """A directory that files with metrics are dropped into."""

    directory: Annotated[Path, BeforeValidator(some_path)] = Field(
        description="Directory of *.prom files; not those in directories inside it."
    )
    mode: Literal["collect", "spool"] = Field(
        default="collect",
        description="collect: the files are the state, as for node_exporter; spool: each is taken once, then removed.",
    )
    labels: dict[str, str] = Field(
        default={}, description='Of the files\' groups; by default job="textfile" and instance="<host name>".'
    )

    @field_validator("labels")
    @classmethod
    def _names_a_job(cls, labels: dict[str, str]) -> dict[str, str]:
        raise_faults(label_faults(labels))
        if labels and not labels.get("job"):
            msg = "want a label job beside the others"
            raise ValueError(msg)
        return labels


class Log(Section):
    """The agent's own log, on standard error."""

    level: Literal["debug", "info", "warn", "error"] = Field(default="info", description="Least level that is logged.")
    format: Literal["logfmt", "json"] = Field(default="logfmt", description="Form of a log line.")
