"""The settings in force: what the parts ask for each time, so that a reload changes them all at once.

Owns which settings wait for a restart, and the options of a push that follow from several sections. Reading the file
is `bridge.config`'s business, the order of a reload `bridge.reload`'s.
"""

import structlog

from bridge.config.doubts import doubts
from bridge.config.file import Config
from bridge.config.remote_write import RemoteWrite
from bridge.delivery.target import wants_version_2
from bridge.flatten import FlattenOptions
from bridge.limits import LabelLimits
from bridge.pipeline import PushOptions
from bridge.rules import Rules

_log = structlog.get_logger(__name__)
_FIXED = {
    "global_": ("external_labels",),
    "web": ("listen_address", "external_url", "route_prefix"),
    "storage": ("path", "max_bytes"),
    "push": ("hold_interval", "forget_after"),
    "log": ("format",),
}
"""Keys by section that hold until the agent ends: they are built into what is open, or into what was sent."""


class Settings:
    """One configuration at a time, and what follows from it."""

    def __init__(self, config: Config) -> None:
        """Put a configuration in force."""
        self.rules = Rules(config.rules)
        """The same object through all reloads."""
        self._fallen: set[tuple[str, str]] = set()
        """Targets (name and URL) that are to get remote_write 2.0 and do not know it."""
        self._take(config)

    def gets_version_2(self, target: RemoteWrite) -> bool:
        """Whether a target is spoken to in 2.0."""
        return wants_version_2(target) and (target.target, target.url) not in self._fallen

    def fall_back(self, target: RemoteWrite) -> None:
        """Have a target get 1.0 until the agent ends, also after a reload."""
        self._fallen.add((target.target, target.url))
        self._take(self.config)

    def apply(self, config: Config) -> list[str]:
        """Put another configuration in force, but for what waits for a restart; gives those keys."""
        waiting: list[str] = []
        kept: dict[str, object] = {}
        for section, keys in _FIXED.items():
            old, new = getattr(self.config, section), getattr(config, section)
            changed = {key: getattr(old, key) for key in keys if getattr(old, key) != getattr(new, key)}
            waiting += [f"{section.rstrip('_')}.{key}" for key in changed]
            kept[section] = new.model_copy(update=changed)
        if config.textfile != self.config.textfile:
            waiting.append("textfile")
            kept["textfile"] = self.config.textfile
        self.rules.replace(config.rules)
        self._take(config.model_copy(update=kept))
        return waiting

    def tell_doubts(self) -> None:
        """Log what the configuration in force says and hardly means."""
        for doubt in doubts(self.config):
            tell = _log.warning if doubt.kind == "warning" else _log.info
            tell("setting_in_doubt", key=doubt.key, words=doubt.words)

    def _take(self, config: Config) -> None:
        push, rules = config.push, self.rules
        self.config = config
        flatten = FlattenOptions(
            config.global_.external_labels,
            canonical_bucket_labels=push.bucket_labels == "canonical",
            accept_timestamps=push.timestamps == "accept",
            utf8_names=push.enable_utf8_names,
            max_series=push.max_series_per_push,
            limits=LabelLimits(
                push.max_label_names_per_series, push.max_label_name_length, push.max_label_value_length
            ),
            custom_buckets=not config.remote_write or any(map(self.gets_version_2, config.remote_write)),
        )
        ttl_ms = lambda grouping: rules.ttl_ms(grouping, push.default_ttl)  # noqa: E731
        self.push = PushOptions(flatten, push.max_body_bytes, ttl_ms, rules.tenant)
