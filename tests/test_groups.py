from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bridge.content import EMPTY, Content
from bridge.encode import decode_group, encode_group
from bridge.errors import BadPushError
from bridge.exposition.text import parse_text
from bridge.flatten import FlattenOptions, check_suffixes, flatten
from bridge.groups import Change, Group, delete, ended_between, group_id, key_of, labels_of_key, next_ms, refuse, store
from bridge.journal.ledger import Ledger
from bridge.journal.staging import Staging
from bridge.model import Labels
from bridge.registry import Groups, check_foreign
from bridge.wire import snappy_block
from bridge.wire.head import decode_sample, labels_of
from bridge.wire.remote_write import STALE_NAN, split_series
from tests.made import make_content
from tests.strategies import BODIES, ModelGroup, PushedBody, Wire, families_of, labels, model_of, series_of, wire_of

if TYPE_CHECKING:
    from bridge.journal.store import Journal

NOW_MS = 1_700_000_000_000
JOB: Labels = (("job", "a"),)
EMPTY_INSTANCE: Labels = (("job", "a"), ("instance", ""))
INSTANCE: Labels = (("job", "a"), ("instance", "x"))


def content_of(body: str, grouping: Labels = JOB, external: dict[str, str] | None = None) -> Content:
    return flatten(parse_text(body.encode()), grouping, FlattenOptions(external or {}), NOW_MS)


def unknown(grouping: Labels = JOB, external: dict[str, str] | None = None) -> Group:
    return Group(group_id(key_of(grouping), external or {}))


def holding(body: str, grouping: Labels = JOB, external: dict[str, str] | None = None) -> Group:
    return put(unknown(grouping, external), body, external=external).group


def put(group: Group, body: str, *, external: dict[str, str] | None = None, replace_all: bool = True) -> Change:
    return store(group, content_of(body, group.id.labels, external), NOW_MS, replace_all=replace_all)


def names(heads: Iterable[bytes]) -> list[str]:
    return [dict(labels_of(head))["__name__"] for head in heads]


def held(group: Group) -> dict[str, float]:
    return {
        name: value for part in group.parts for name, value in zip(names(part.shape.heads), part.values, strict=True)
    }


@given(labels(min_size=1))
@example((("job", "a"), ("instance", "")))
@example((("job", "\u00ff"), ("\u00ff", "\x00\n")))
def test_a_key_gives_its_labels_back(pairs: Labels) -> None:
    """A grouping key stands for its labels in whatever order they came, empty values included."""
    assert labels_of_key(key_of(pairs)) == tuple(sorted(pairs))
    assert key_of(tuple(reversed(pairs))) == key_of(pairs)


@given(labels(min_size=1), labels(min_size=1))
@example((("a", "b"), ("c", "")), (("a", "b"),))
@example((("ab", "c"),), (("a", "bc"),))
def test_different_labels_have_different_keys(one: Labels, other: Labels) -> None:
    """Two keys are equal exactly when the labels are."""
    assert (key_of(one) == key_of(other)) is (dict(one) == dict(other))


@pytest.mark.parametrize(
    ("last_ms", "now_ms", "arrival_ms"), [(0, 5, 5), (5, 6, 6), (5, 5, 6), (5, 4, 6), (5, 0, 6), (5, -7, 6)]
)
def test_arrival_times_only_rise(last_ms: int, now_ms: int, arrival_ms: int) -> None:
    """A clock that stands still or steps back gives the previous time and one."""
    group = replace(unknown(), last_ms=last_ms)
    assert next_ms(group, now_ms) == arrival_ms
    changes = [store(group, EMPTY, now_ms, replace_all=True), delete(group, now_ms), refuse(group, now_ms)]
    assert [change.group.last_ms for change in changes] == [arrival_ms] * 3


def test_put_replaces_the_group() -> None:
    """PUT leaves nothing but its own series, and ends the others in their old order."""
    change = put(holding("a 1\nb 2\nc 3\n"), "b 4\nd 5\n")
    assert (change.operation, held(change.group)) == ("put", {"b": 4.0, "d": 5.0})
    assert names(change.ended) == ["a", "c"]


def test_post_replaces_whole_families() -> None:
    """POST replaces all series of the families that it brings, and keeps the other families."""
    change = put(holding('a{n="1"} 1\na{n="2"} 1\nb 2\nc 3\n'), 'a{n="2"} 4\nd 5\n', replace_all=False)
    assert (change.operation, held(change.group)) == ("post", {"b": 2.0, "c": 3.0, "a": 4.0, "d": 5.0})
    assert [dict(labels_of(head))["n"] for head in change.ended] == ["1"]


@pytest.mark.parametrize(("replace_all", "left"), [(True, {}), (False, {"a": 1.0})], ids=["put", "post"])
def test_an_empty_push_counts(*, replace_all: bool, left: dict[str, float]) -> None:
    """An empty PUT empties the group, an empty POST keeps it; both make it known and set its push time."""
    change = store(holding("a 1\n"), EMPTY, NOW_MS, replace_all=replace_all)
    assert held(change.group) == left
    assert (len(change.ended), change.group.live, change.group.push_ms) == (1 - len(left), True, NOW_MS + 1)
    assert store(unknown(), EMPTY, NOW_MS, replace_all=replace_all).group.live


def test_delete_ends_everything() -> None:
    """DELETE ends all series and the gauges, and leaves only the newest time."""
    group = holding("a 1\nb 2\n")
    change = delete(group, NOW_MS)
    assert names(change.ended) == ["a", "b", "push_time_seconds", "push_failure_time_seconds"]
    assert (change.operation, change.gauges) == ("delete", False)
    after = change.group
    assert (after.last_ms, after.push_ms, after.failure_ms, after.live, after.parts) == (NOW_MS + 1, 0, 0, False, ())
    assert delete(after, NOW_MS).ended == ()


def test_a_refused_push_is_noted_and_changes_nothing_else() -> None:
    """A refusal sets the failure time, makes the group known, and leaves series and push time as they are."""
    group = holding("a 1\n")
    change = refuse(group, NOW_MS)
    assert (change.operation, change.ended, change.content) == ("failure", (), EMPTY)
    assert change.group.parts is group.parts
    assert (change.group.push_ms, change.group.failure_ms, change.group.live) == (NOW_MS, NOW_MS + 1, True)
    assert refuse(unknown(), NOW_MS).group.live


def test_the_newest_push_tells_whether_it_was_successful() -> None:
    """A failure counts until a later push succeeds, and its time is kept even then."""
    group = holding("a 1\n")
    failed = refuse(group, NOW_MS).group
    again = put(failed, "a 1\n").group
    assert [each.last_push_successful for each in (group, failed, again)] == [True, False, True]
    assert again.failure_ms == failed.failure_ms


@pytest.mark.parametrize(
    ("before", "after", "ended"),
    [
        pytest.param("a 1\nb 1\n", "", ["a", "b"], id="untimed"),
        pytest.param("a 1 5\nb 1\n", "", ["b"], id="timed series are exempt"),
        pytest.param("a 1 5\n", "b 1\n", [], id="all timed"),
        pytest.param("a 1\n", "a 1 5\n", [], id="goes on with a timestamp"),
        pytest.param("a 1 5\n", "a 1\n", [], id="goes on without one"),
        pytest.param('a{n="1"} 1\n', 'a{n="2"} 1\n', ["a"], id="another series of the family"),
        pytest.param("", "a 1\n", [], id="nothing before"),
    ],
)
def test_series_that_ended_are_those_that_are_missing(before: str, after: str, ended: list[str]) -> None:
    """What was held without an explicit timestamp and is not held any more has ended."""
    parts = tuple(content_of(line + "\n") for line in before.splitlines())
    assert names(ended_between((content_of(before),), (content_of(after),))) == ended
    assert names(ended_between(parts, (content_of(after),))) == ended


def test_a_repeated_shape_ends_nothing() -> None:
    """A push that repeats the last one's series ends none of them, whatever else changes."""
    one = content_of("a 1\nb 2 5\n")
    assert ended_between((one,), (make_content(one.shape, (3.0, 4.0), one.timestamps), content_of("c 1\n"))) == ()


def test_families_are_left_out_with_their_values() -> None:
    """What stays of a content has its own values and timestamps, in order; with nothing left there is none."""
    content = content_of('a 1\nb{n="1"} 2\nb{n="2"} 3 7\nc 4\n')
    rest = content.without(frozenset({"a", "d"}))
    assert rest is not None
    assert (names(rest.shape.heads), rest.values, rest.timestamps) == (["b", "b", "c"], (2, 3, 4), (None, 7, None))
    assert [(family.name, family.start, family.stop) for family in rest.shape.families] == [("b", 0, 2), ("c", 2, 3)]
    assert content.without(frozenset({"d"})) is content
    assert content.without(frozenset({"a", "b", "c"})) is None


def test_groups_are_known_once_published() -> None:
    """A group is visible when it is published, and live until it is deleted."""
    groups = Groups()
    assert (groups.get(key_of(JOB)).live, list(groups.live()), list(groups.name_sets())) == (False, [], [])
    groups.publish([holding("a 1\n"), holding("b 1\n", INSTANCE), holding("c 1\n", (("job", "c"),))])
    groups.publish([holding("a 2\n")])
    assert [group.id.key for group in groups.live()] == [key_of(JOB), key_of(INSTANCE), key_of((("job", "c"),))]
    assert set(groups.name_sets()) == {("job",), ("instance", "job")}
    ended = [delete(groups.get(key_of(grouping)), NOW_MS).group for grouping in (INSTANCE, JOB)]
    groups.publish(ended * 2)
    assert [group.id.labels for group in groups.live()] == [(("job", "c"),)]
    assert list(groups.name_sets()) == [("job",)]


def test_ended_groups_are_forgotten_after_a_while() -> None:
    """A deleted group keeps its newest time until it is old; a live group is kept however old it is."""
    groups = Groups()
    groups.publish([holding("a 1\n"), delete(holding("b 1\n", INSTANCE), NOW_MS).group])
    groups.forget_ended(NOW_MS + 1)
    assert groups.get(key_of(INSTANCE)).last_ms == NOW_MS + 1
    groups.forget_ended(NOW_MS + 2)
    assert groups.get(key_of(INSTANCE)).last_ms == 0
    assert groups.get(key_of(JOB)).live


B1: Labels = (("job", "a"), ("b", "1"))
B1_C2: Labels = (*B1, ("c", "2"))
OTHER_JOB: Labels = (("job", "b"),)
# What the owner holds, what is pushed then, the external instance label, and whether that is refused.
FOREIGN: dict[str, tuple[Labels, str, Labels, str, str, bool]] = {
    "owner's body says what our key says": (JOB, 'a{instance="x"} 1', INSTANCE, "a 1", "", True),
    "our body says what the owner's key says": (INSTANCE, "a 1", JOB, 'a{instance="x"} 1', "", True),
    "our empty label is none": (JOB, "a 1", EMPTY_INSTANCE, "a 1", "", True),
    "the owner's empty label is none": (EMPTY_INSTANCE, "a 1", JOB, "a 1", "", True),
    "keys differ in an empty label: same push times": (EMPTY_INSTANCE, "a 1", JOB, "b 1", "", True),
    "keys that overlap": (B1, 'a{c="2"} 1', (("job", "a"), ("c", "2")), 'a{b="1"} 1', "", True),
    "key within a key": (B1_C2, "a 1", JOB, 'a{c="2",b="1"} 1', "", True),
    "key around a key": (JOB, 'a{c="2",b="1"} 1', B1_C2, "a 1", "", True),
    "key that is not quite within": (B1_C2, "a 1", JOB, 'a{b="1"} 1', "", False),
    "second series": (INSTANCE, "a 1", JOB, 'b 1\na{instance="x"} 1', "", True),
    "another name": (INSTANCE, "a 1", JOB, 'b{instance="x"} 1', "", False),
    "another value": (INSTANCE, "a 1", JOB, 'a{instance="y"} 1', "", False),
    "another label": (INSTANCE, "a 1", JOB, 'a{instance="x",n="1"} 1', "", False),
    "another job": (INSTANCE, "a 1", OTHER_JOB, 'a{instance="x"} 1', "", False),
    "our grouping label wins": (OTHER_JOB, "a 1", JOB, 'a{job="b"} 1', "", False),
    "our external label says it": (INSTANCE, "a 1", JOB, "a 1", "x", True),
    "the owner's external label says it": (JOB, "a 1", INSTANCE, "a 1", "x", True),
    "external label says otherwise": (INSTANCE, "a 1", JOB, "a 1", "y", False),
}


@pytest.mark.parametrize("staged", [False, True], ids=["committed", "same batch"])
@pytest.mark.parametrize(("owner", "owned", "grouping", "body", "instance", "refused"), FOREIGN.values(), ids=FOREIGN)
def test_a_series_of_another_group_is_refused(
    owner: Labels, owned: str, grouping: Labels, body: str, instance: str, *, refused: bool, staged: bool
) -> None:
    """Exactly the same labels as a series of another group refuse a push, wherever these labels come from."""
    external = {"instance": instance}
    other = holding(f"{owned}\n", owner, external)
    groups, batch = Groups(external), {other.id.key: other} if staged else {}
    groups.publish([holding("z 1\n", (("job", "z"), ("n", "1")), external), *([] if staged else [other])])
    group, content = unknown(grouping, external), content_of(f"{body}\n", grouping, external)
    if refused:
        with pytest.raises(BadPushError, match="is already pushed by the group") as caught:
            check_foreign(group, content, groups, batch)
        assert caught.value.reason == "inconsistent"
        assert str(dict(other.id.labels)) in str(caught.value)
    else:
        check_foreign(group, content, groups, batch)


def test_a_series_is_free_once_its_owner_has_ended_it() -> None:
    """In one batch, what a group deletes or replaces can be taken over by the next push at once."""
    groups, owner, content = Groups(), holding("a 1\n", INSTANCE), content_of('a{instance="x"} 1\n')
    groups.publish([owner])
    for change in (delete(owner, NOW_MS), put(owner, "b 1\n")):
        check_foreign(unknown(), content, groups, {owner.id.key: change.group})
    with pytest.raises(BadPushError):
        check_foreign(unknown(), content, groups, {owner.id.key: refuse(owner, NOW_MS).group})


def test_a_group_repeats_its_own_series() -> None:
    """A group's own series, held or shared with nobody, never refuse its push."""
    groups, group = Groups(), holding('a{instance="x"} 1\n')
    groups.publish([group, holding("b 1\n", INSTANCE)])
    for content in (group.parts[0], content_of('a{instance="x"} 2\n')):
        check_foreign(group, content, groups, {})


def stage(staging: Staging, grouping: Labels, content: Content, *, replace_all: bool) -> Change:
    """Do what the pipeline does with a push."""
    group = staging.group(key_of(grouping))
    change = store(group, content, staging.now_ms, replace_all=replace_all)
    check_suffixes({family.name: family.type for part in change.group.parts for family in part.shape.families})
    check_foreign(group, content, staging.committed, staging.groups)
    staging.add(change)
    return change


GROUPINGS: list[Labels] = [JOB, EMPTY_INSTANCE, INSTANCE, OTHER_JOB]


class GroupsMachine(RuleBasedStateMachine):
    """Runs pushes beside a plain dict of dicts; a batch is on disk when `commit` ran."""

    @initialize()
    def start(self) -> None:
        """Begin with no group."""
        self.now_ms = NOW_MS
        self.groups = Groups()
        self.staging = Staging(self.now_ms, self.groups, Ledger(), cast("Journal", None), 0)
        self.model: dict[bytes, ModelGroup] = {}
        self.committed: dict[bytes, ModelGroup] = {}

    @rule(step_ms=st.sampled_from([0, 1, -5, 1000]), reload=st.booleans())
    def commit(self, step_ms: int, *, reload: bool) -> None:
        """Publish the batch, perhaps restart from what is stored, and begin the next one as the clock says."""
        self.groups.publish(self.staging.groups.values())
        self.committed = dict(self.model)
        if reload:
            rows = [encode_group(group, None) for group in self.groups._by_key.values()]
            self.groups = Groups()
            self.groups.publish([decode_group(row, group_id(row.key, {})) for row in rows])
        self.now_ms += step_ms
        self.staging = Staging(self.now_ms, self.groups, Ledger(), cast("Journal", None), 0)

    @rule(grouping=st.sampled_from(GROUPINGS), body=BODIES, replace_all=st.booleans())
    def push(self, grouping: Labels, body: PushedBody, *, replace_all: bool) -> None:
        """PUT or POST; it is refused exactly when a series comes twice or is another group's."""
        wires = [wire_of(name, pairs, grouping) for name, (_, points) in body.items() for pairs, _, _ in points]
        held = self.model.get(key_of(grouping), {})
        before = self.staging.group(key_of(grouping))
        try:
            content = flatten(families_of(body), grouping, FlattenOptions({}), NOW_MS)
            change = stage(self.staging, grouping, content, replace_all=replace_all)
        except BadPushError:
            gauge_taken = self._gauge_taken(grouping)
            assert gauge_taken or len(set(wires)) < len(wires) or self._owned_by_others(grouping) & set(wires)
            if not gauge_taken:
                change = refuse(before, self.now_ms)
                self.staging.add(change)
                self._check(before, change, held)
        else:
            assert len(set(wires)) == len(wires)
            assert not self._owned_by_others(grouping) & set(wires)
            new = {
                name: (kind, {wire_of(name, pairs, grouping): (value, stamp) for pairs, value, stamp in points})
                for name, (kind, points) in body.items()
            }
            self._check(before, change, new if replace_all else held | new)

    @rule(grouping=st.sampled_from(GROUPINGS), value=st.integers(10, 19).map(float))
    def push_again(self, grouping: Labels, value: float) -> None:
        """PUT a body of the form of one that is on disk, as the parser's short cut hands it over."""
        for part in self.groups.get(key_of(grouping)).parts[:1]:
            content, before = make_content(part.shape, [value] * len(part)), self.staging.group(key_of(grouping))
            try:
                change = stage(self.staging, grouping, content, replace_all=True)
            except BadPushError:
                wires = {frozenset(labels_of(head)) for head in part.shape.heads}
                assert self._gauge_taken(grouping) or self._owned_by_others(grouping) & wires
            else:
                self._check(before, change, model_of(change.content))

    @rule(grouping=st.sampled_from(GROUPINGS))
    def end(self, grouping: Labels) -> None:
        """DELETE."""
        before = self.staging.group(key_of(grouping))
        change = delete(before, self.now_ms)
        self.staging.add(change)
        self._check(before, change, None)

    def _gauge_taken(self, grouping: Labels) -> bool:
        """Whether a group that is not live would have the push-time gauges of one that is."""
        group = self.staging.group(key_of(grouping))
        keys = {key for key in self.model if key != group.id.key}
        return not group.live and group.id.gauge_heads[0] in {self.staging.group(key).id.gauge_heads[0] for key in keys}

    def _owned_by_others(self, grouping: Labels) -> set[Wire]:
        return {wire for key, held in self.model.items() if key != key_of(grouping) for wire in series_of(held)}

    def _check(self, before: Group, change: Change, after: ModelGroup | None) -> None:
        """Compare what one push did, and keep the model's new state."""
        key = change.group.id.key
        assert change.group.last_ms == max(self.now_ms, before.last_ms + 1)
        old, new = series_of(self.model.get(key, {})), series_of(after or {})
        ended = [wire for wire, (_, stamp) in old.items() if stamp is None and wire not in new]
        if before.live and after is None:
            gauges = (change.group.id.gauge_heads[0], change.group.id.gauge_heads[1])
            ended += [frozenset(labels_of(head)) for head in gauges]
        rows = [snappy_block.decompress(record.body, 1 << 20) for record in self.staging.records]
        self.staging.records.clear()
        fields = split_series(b"".join(rows))
        markers = [field for field in fields if STALE_NAN in field]
        assert fields[: len(markers)] == markers
        assert sorted(sorted(labels_of(decode_sample(field)[0])) for field in markers) == sorted(map(sorted, ended))
        if after is None:
            self.model.pop(key, None)
        else:
            self.model[key] = after

    @invariant()
    def same_content(self) -> None:
        """Compare every group as the batch at hand sees it."""
        for grouping in GROUPINGS:
            group = self.staging.group(key_of(grouping))
            held: ModelGroup = {}
            for part in group.parts:
                held |= model_of(part)
            assert (group.live, held) == (group.id.key in self.model, self.model.get(group.id.key, {}))

    @invariant()
    def same_index(self) -> None:
        """Compare what is published: live groups, their label names, and types that differ."""
        live = [group.id for group in self.groups.live()]
        assert {identity.key for identity in live} == set(self.committed)
        assert set(self.groups.name_sets()) == {tuple(name for name, _ in identity.labels) for identity in live}
        for name in "ab":
            types = {held[name][0] for held in self.committed.values() if name in held}
            conflicts = self.groups.type_conflicts(content_of(f"# TYPE {name} gauge\n{name} 1\n"))
            assert conflicts == ([(name, "gauge", "counter")] if "counter" in types else [])


TestGroups = GroupsMachine.TestCase
TestGroups.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
