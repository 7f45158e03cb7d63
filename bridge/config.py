"""Every setting, declared once: name, type, default, help. Frozen after loading.

Owns the YAML file, its errors (key and line) and the parsing of addresses. The command
line builds its flags from these declarations; nothing else invents a default.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bridge.durations import parse_duration_s, parse_ttl_ms
from bridge.errors import ConfigError
from bridge.regex import compile_anchored
from bridge.sizes import parse_size_bytes

_LOOKBACK_S = 300
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_LISTS = {"remote_write": "targets", "textfile": "directories"}
"""Sections that are lists, and the key under which overrides add to them."""
# The spec forbids users to override these (protocol.md sections 1.1 and 4.1).
RESERVED_HEADERS = frozenset(
    """host content-encoding content-length content-type user-agent connection keep-alive proxy-authenticate
    proxy-authorization www-authenticate accept-encoding x-prometheus-remote-write-version
    x-prometheus-remote-read-version x-amz-date x-amz-security-token x-amz-content-sha256 retry-attempt""".split()
)


def _positive(value: float) -> float:
    if value <= 0:
        msg = f"must be more than 0, got {value:g}"
        raise ValueError(msg)
    return value


def _below_lookback(seconds: float) -> float:
    if not 1 <= seconds < _LOOKBACK_S:
        msg = f"must be from 1s to less than 5m, the time that an instant query looks back; got {seconds:g}s"
        raise ValueError(msg)
    return seconds


Duration = Annotated[float, BeforeValidator(parse_duration_s)]
Ttl = Annotated[int, BeforeValidator(parse_ttl_ms)]
Size = Annotated[int, BeforeValidator(parse_size_bytes), AfterValidator(_positive)]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (all interfaces); ValueError otherwise."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the last TCP port
        msg = f"not an address: got {address!r}, want host:port, for example 127.0.0.1:9091"
        raise ValueError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _checked_address(address: str) -> str:
    split_address(address)
    return address


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"not an http(s) URL: got {url!r}"
        raise ValueError(msg)
    return url


def _check_label_names(labels: Mapping[str, str]) -> None:
    for name in labels:
        if not _LABEL_NAME.fullmatch(name) or name.startswith("__"):
            msg = f"not a label name: got {name!r}"
            raise ValueError(msg)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Global(_Section):
    """Settings for everything that is sent."""

    external_labels: dict[str, str] = Field(default={}, description="Labels added to every series that lacks them.")

    @field_validator("external_labels")
    @classmethod
    def _names(cls, labels: dict[str, str]) -> dict[str, str]:
        _check_label_names(labels)
        return labels


class Web(_Section):
    """The push API's listener."""

    listen_address: Annotated[str, AfterValidator(_checked_address)] = Field(
        default="127.0.0.1:9091", description="Address to listen on for pushes and the API."
    )
    external_url: str = Field(
        default="", description="URL under which the agent is reachable from outside; its path is the route prefix."
    )
    route_prefix: str = Field(
        default="", description="Prefix for all HTTP paths; by default the path of web.external-url."
    )
    enable_admin_api: bool = Field(default=False, description="Allow PUT /api/v1/admin/wipe.")
    enable_lifecycle: bool = Field(default=False, description="Allow PUT or POST /-/quit.")
    expose_groups: Literal["auto", "true", "false"] = Field(
        default="auto", description="Show pushed groups on /metrics; auto: only when no target is configured."
    )

    @field_validator("expose_groups", mode="before")
    @classmethod
    def _yaml_bool(cls, value: object) -> object:
        return str(value).lower() if isinstance(value, bool) else value

    @cached_property
    def prefix(self) -> str:
        """Route prefix that starts with `/` and does not end with one, or nothing."""
        path = (self.route_prefix or urlsplit(self.external_url).path).strip("/")
        return f"/{path}" if path else ""


class Storage(_Section):
    """The journal on disk."""

    path: Path = Field(default=Path("data"), description="Directory of the journal; one agent per directory.")
    retention: Duration = Field(default="24h", description="How long delivered pushes are kept for history.")  # type: ignore[assignment]
    max_bytes: Size = Field(default="1GiB", description="Bound of the journal file.")  # type: ignore[assignment]
    when_full: Literal["reject", "drop_oldest"] = Field(
        default="reject",
        description="When undelivered pushes fill the journal: reject pushes with 503, or drop the oldest.",
    )

    @property
    def spool(self) -> Path:
        """The spool directory that every agent has."""
        return self.path / "spool"


class Push(_Section):
    """What a push may contain, how it is read and how long it is visible."""

    default_ttl: Ttl = Field(
        default="25h",  # type: ignore[assignment]
        description="How long pushed values stay visible: 0 = sent once, inf = until deleted.",
    )
    hold_interval: Annotated[Duration, AfterValidator(_below_lookback)] = Field(
        default="60s",  # type: ignore[assignment]
        description="How often visible values are repeated to the targets; from 1s to less than 5m.",
    )
    forget_after: Annotated[Duration, AfterValidator(_positive)] = Field(
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
    max_body_bytes: Size = Field(default="64MiB", description="Largest body, also after decompression.")  # type: ignore[assignment]
    max_series_per_push: Annotated[int, AfterValidator(_positive)] = Field(
        default=100_000, description="Most series that one push may carry."
    )


class RunsRule(_Section):
    """How runs are read from the pushes of jobs that do not report them."""

    success_metric: str = Field(
        default="", description="Each push with this metric is a run; it succeeded when the value is not 0."
    )


class Rule(_Section):
    """What holds for the groups that match; the first rule that matches a group is the only one."""

    match: dict[str, str] = Field(description="Grouping label to pattern (RE2, anchored); all must match.")
    ttl: Ttl | None = Field(default=None, description="In place of push.default_ttl.")
    expect_every: Annotated[Duration, AfterValidator(_positive)] | None = Field(
        default=None, description="A run, or a push where there are no runs, is expected this often."
    )
    grace: Duration = Field(default="0", description="How late it may be.")  # type: ignore[assignment]
    max_runtime: Annotated[Duration, AfterValidator(_positive)] = Field(
        default="24h",  # type: ignore[assignment]
        description="A run that started longer ago and has not ended is lost.",
    )
    runs: RunsRule = Field(default=RunsRule(), description="Runs of jobs that only push.")

    @field_validator("match")
    @classmethod
    def _patterns(cls, match: dict[str, str]) -> dict[str, str]:
        for name, pattern in match.items():
            if not _LABEL_NAME.fullmatch(name):
                msg = f"not a label name: got {name!r}"
                raise ValueError(msg)
            compile_anchored(pattern)
        return match

    @model_validator(mode="after")
    def _late_for_something(self) -> "Rule":
        if self.grace and self.expect_every is None:
            msg = "grace needs expect_every"
            raise ValueError(msg)
        return self


class Textfile(_Section):
    """A directory that files with metrics are dropped into."""

    directory: Path = Field(description="Directory of *.prom files; not those in directories inside it.")
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
        _check_label_names(labels)
        if labels and not labels.get("job"):
            msg = "want a label job beside the others"
            raise ValueError(msg)
        return labels


class QueueConfig(_Section):
    """The part of Prometheus' queue_config that the sender has so far."""

    max_samples_per_send: Annotated[int, AfterValidator(_positive)] = Field(
        default=2000, description="Most samples in one request."
    )
    min_backoff: Duration = Field(default="30ms", description="First delay of a retry.")  # type: ignore[assignment]
    max_backoff: Duration = Field(default="5s", description="Longest delay between retries.")  # type: ignore[assignment]

    @model_validator(mode="after")
    def _ordered(self) -> "QueueConfig":
        if not 0 < self.min_backoff <= self.max_backoff:
            msg = "min_backoff must be more than 0 and not more than max_backoff"
            raise ValueError(msg)
        return self


class RemoteWrite(_Section):
    """One target, in the words of Prometheus' remote_write block."""

    url: Annotated[str, AfterValidator(_http_url)] = Field(description="remote_write endpoint.")
    name: str = Field(default="", description="Name in metrics and logs; by default the URL without secrets.")
    remote_timeout: Annotated[Duration, AfterValidator(_positive)] = Field(
        default="30s",  # type: ignore[assignment]
        description="Limit of one request.",
    )
    headers: dict[str, str] = Field(default={}, description="Extra request headers.")
    queue_config: QueueConfig = Field(default=QueueConfig(), description="Batching and retries.")

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


class Log(_Section):
    """The agent's own log, on standard error."""

    level: Literal["debug", "info", "warn", "error"] = Field(default="info", description="Least level that is logged.")
    format: Literal["logfmt", "json"] = Field(default="logfmt", description="Form of a log line.")


class Config(_Section):
    """The whole configuration."""

    global_: Global = Field(default=Global(), alias="global")
    web: Web = Web()
    storage: Storage = Storage()
    push: Push = Push()
    log: Log = Log()
    rules: tuple[Rule, ...] = ()
    textfile: tuple[Textfile, ...] = ()
    remote_write: tuple[RemoteWrite, ...] = ()

    @model_validator(mode="after")
    def _distinct_targets(self) -> "Config":
        seen: set[str] = set()
        for target in self.remote_write:
            if target.target in seen:
                msg = f"two remote_write targets are called {target.target!r}; give each a name"
                raise ValueError(msg)
            seen.add(target.target)
        return self

    @model_validator(mode="after")
    def _distinct_directories(self) -> "Config":
        storage, seen = self.storage.path.resolve(), set[Path]()
        for at, entry in enumerate(self.textfile):
            path = entry.directory.resolve()
            if path in seen:
                msg = f"textfile[{at}].directory: {entry.directory} is given twice"
                raise ValueError(msg)
            is_own_spool = path == self.storage.spool.resolve() and entry.mode == "spool"
            if (path == storage or storage in path.parents) and not is_own_spool:
                msg = f"textfile[{at}].directory: got {entry.directory}, want one that is not inside storage.path"
                raise ValueError(msg)
            seen.add(path)
        return self

    @property
    def exposes_groups(self) -> bool:
        """Whether /metrics shows the pushed groups (design.md section 9)."""
        if self.web.expose_groups == "auto":
            return not self.remote_write
        return self.web.expose_groups == "true"


def load(text: str, source: str, overrides: Mapping[str, Mapping[str, object]] | None = None) -> Config:
    """Read YAML `text`, put `overrides` (section -> key -> value) over it, and check everything.

    Raises ConfigError with one line per fault: source, line, key, what was got and wanted.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: want a mapping of sections at the top, got {type(document).__name__}")
    for section, values in (overrides or {}).items():
        if section in _LISTS:
            document[section] = [*(document.get(section) or []), *values.get(_LISTS[section], [])]  # type: ignore[misc]
        else:
            document[section] = {**(document.get(section) or {}), **values}
    try:
        return Config.model_validate({key: value for key, value in document.items() if value is not None})
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, node, source) for item in error.errors())) from None


def _explain(item: Any, node: yaml.Node | None, source: str) -> str:
    path = [part for part in item["loc"] if part != "[key]"]
    line = _line_of(node, path)
    where = f"{source}:{line}" if line else source
    key = ".".join(str(part) for part in path) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {key}"
    wanted = item["msg"].removeprefix("Value error, ")
    got = "" if "got" in wanted or item["type"] == "missing" else f", got {item['input']!r}"
    return f"{where}: {key}: {wanted}{got}"


def _line_of(node: yaml.Node | None, path: list[str | int]) -> int | None:
    """Line of the deepest part of `path` that the file has, None when it has none of it."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == part), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
