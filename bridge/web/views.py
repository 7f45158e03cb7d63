"""What the groups look like from outside: as families for /metrics and as JSON. Reads state, changes nothing."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from bridge.content import Content
from bridge.exposition.write import ExposedFamily, family_json
from bridge.groups import GAUGE_HELP, PUSH_FAILURE_TIME, PUSH_TIME, Group
from bridge.model import Labels
from bridge.wire.head import labels_of


def own_families(registry: CollectorRegistry) -> Iterator[ExposedFamily]:
    """Give the agent's own metrics, named as text 0.0.4 names them."""
    for metric in registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        samples = tuple(
            (sample.name, tuple(sample.labels.items()), sample.value)
            for sample in metric.samples
            if not sample.name.endswith("_created")
        )
        yield ExposedFamily(name, metric.type, metric.documentation, samples)


def group_families(group: Group, external: Mapping[str, str]) -> Iterator[ExposedFamily]:
    """Give what a group holds, push-time gauges last; external labels are the receiver's business and left out."""
    own = dict(group.id.labels)
    # An empty grouping label is not on the wire, so the external label of its name is.
    hidden = {name: value for name, value in external.items() if not own.get(name)}
    for part in group.parts:
        yield from _part_families(part, group.id.labels, hidden)
    if group.id.source:
        return
    labels = _with_instance(group.id.labels)
    for name, at_ms in ((PUSH_TIME, group.push_ms), (PUSH_FAILURE_TIME, group.failure_ms)):
        yield ExposedFamily(name, "gauge", GAUGE_HELP[name], ((name, labels, at_ms / 1000),))


def _part_families(part: Content, grouping: Labels, hidden: Mapping[str, str]) -> Iterator[ExposedFamily]:
    empty = tuple(pair for pair in grouping if not pair[1])
    values, messages = part.values, part.histograms or (None,) * len(part)
    for family in part.shape.families:
        samples: list[tuple[str, Labels, float]] = []
        histograms: list[tuple[Labels, bytes]] = []
        for at in range(family.start, family.stop):
            labels = labels_of(part.shape.heads[at])
            name = dict(labels)["__name__"]
            shown = [pair for pair in labels if pair[0] != "__name__" and hidden.get(pair[0]) != pair[1]]
            shown_labels, message = _with_instance((*shown, *empty)), messages[at]
            if message is None:
                samples.append((name, shown_labels, values[at]))
            else:
                histograms.append((shown_labels, message))
        yield ExposedFamily(family.name, family.type, family.help, tuple(samples), tuple(histograms))


def _with_instance(labels: Labels) -> Labels:
    """Pushgateway shows an empty instance label where there is none (protocol.md section 5.3)."""
    if any(name == "instance" for name, _ in labels):
        return tuple(sorted(labels))
    return tuple(sorted((*labels, ("instance", ""))))


def groups_json(groups: Iterable[Group], external: Mapping[str, str]) -> list[dict[str, Any]]:
    """All groups that hold something still, in the shape of Pushgateway's /api/v1/metrics."""
    return [
        {
            "labels": dict(group.id.labels),
            "last_push_successful": group.last_push_successful,
            **{family.name: family_json(family, group.push_ms) for family in group_families(group, external)},
        }
        for group in groups
        if not group.expired and not group.id.source
    ]
