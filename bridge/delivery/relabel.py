"""What `write_relabel_configs` makes of a series: its head in, its new head out (protocol.md section 4.6).

Owns what each action does, the check of what is left, and the memory of what was found: a series that comes again
costs one look-up. Rules work on names and values in UTF-8, which spares decoding them. Pure. Rows of the journal
and counting are `bridge.delivery.rewrite`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from hashlib import md5

from bridge.config.relabel import RelabelConfig
from bridge.config.units import LABEL_NAME
from bridge.reasons import RELABEL, RELABEL_NAMELESS
from bridge.regex import Pattern
from bridge.wire.head import encoded_labels_of, make_head
from bridge.wire.remote_write import encode_labels

REMEMBERED = 1 << 17
"""Series of which a target knows what its rules make; about 50 MiB when the labels are 200 bytes."""
Verdict = bytes | str
"""The new head, or why the series is dropped."""
_REMEMBERED_TEXTS = 1 << 12
"""Texts of which a rule knows whether they fit: names, and values that many series share."""
_NAME = b"__name__"
_HIDDEN = b"__"
_UINT64_BYTES = 8


class _Labels:
    """The labels as the rules before left them.

    Those that were set come behind those that were there, in order: `labelmap` may name two labels alike, and then
    the last one stays, as in Prometheus.
    """

    __slots__ = ("_added", "pairs")

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        self.pairs = dict(pairs)
        self._added: set[bytes] = set()

    def join(self, names: Sequence[bytes], separator: bytes) -> bytes:
        """Values of these labels; one that there is not is empty."""
        if len(names) == 1:
            return self.pairs.get(names[0], b"")
        return separator.join([self.pairs.get(name, b"") for name in names])

    def set(self, name: bytes, value: bytes) -> None:
        """Set a label, or remove it by an empty value."""
        if not value:
            self.remove(name)
            return
        if name not in self._added:
            self.pairs.pop(name, None)
            self._added.add(name)
        self.pairs[name] = value

    def remove(self, name: bytes) -> None:
        """Remove a label if it is there."""
        self.pairs.pop(name, None)
        self._added.discard(name)


Rule = Callable[[_Labels], bool]
"""Changes labels; False drops the series."""
_ValidName = Callable[[bytes], bool]


class Relabeler:
    """The rules of one target, with a memory."""

    def __init__(
        self, rules: Sequence[RelabelConfig], *, utf8_names: bool = False, remembered: int = REMEMBERED
    ) -> None:
        """Compile rules that were checked; `utf8_names` says whether `replace` may make names that are not legacy."""
        valid = _is_name if utf8_names else _is_legacy_name
        self._rules = [_COMPILERS[rule.action](rule, valid) for rule in rules]
        self.relabel: Callable[[bytes], Verdict] = lru_cache(remembered)(self._relabel)
        """What the rules make of a head; ValueError for bytes that are none. Safe to call from several threads."""

    def _relabel(self, head: bytes) -> Verdict:
        pairs = encoded_labels_of(head)
        labels = _Labels(pairs)
        for rule in self._rules:
            if not rule(labels):
                return RELABEL
        left = [(name, value) for name, value in labels.pairs.items() if name == _NAME or not name.startswith(_HIDDEN)]
        if _NAME not in labels.pairs:
            return RELABEL_NAMELESS
        left.sort()
        return head if left == pairs else make_head(encode_labels(left))


def _is_name(name: bytes) -> bool:
    return bool(name)


@lru_cache(_REMEMBERED_TEXTS)
def _is_legacy_name(name: bytes) -> bool:
    return LABEL_NAME.fullmatch(name.decode()) is not None


def _source(rule: RelabelConfig) -> Callable[[_Labels], bytes]:
    names, separator = tuple(name.encode() for name in rule.source_labels), rule.separator.encode()
    return lambda labels: labels.join(names, separator)


def _fits(rule: RelabelConfig) -> Callable[[bytes], bool]:
    return lru_cache(_REMEMBERED_TEXTS)(Pattern(rule.regex).fits)


def _groups(pattern: Pattern) -> Callable[[bytes], Sequence[bytes | None] | None]:
    return lru_cache(_REMEMBERED_TEXTS)(pattern.groups)


def _compile_filter(rule: RelabelConfig, _valid: _ValidName, *, keeps: bool) -> Rule:
    source, fits = _source(rule), _fits(rule)
    return lambda labels: fits(source(labels)) is keeps


def _compile_comparison(rule: RelabelConfig, _valid: _ValidName, *, keeps: bool) -> Rule:
    source, target = _source(rule), rule.target_label.encode()
    return lambda labels: (labels.pairs.get(target, b"") == source(labels)) is keeps


def _compile_replace(rule: RelabelConfig, valid: _ValidName) -> Rule:
    source, pattern = _source(rule), Pattern(rule.regex)
    target, replacement = pattern.template(rule.target_label), pattern.template(rule.replacement)
    groups_of = _groups(pattern)

    def replace(labels: _Labels) -> bool:
        groups = groups_of(source(labels))
        if groups is not None and valid(name := target(groups)):
            labels.set(name, replacement(groups))
        return True

    return replace


def _compile_setting(rule: RelabelConfig, _valid: _ValidName, *, make: Callable[[bytes], bytes]) -> Rule:
    source, target = _source(rule), rule.target_label.encode()

    def set_target(labels: _Labels) -> bool:
        labels.set(target, make(source(labels)))
        return True

    return set_target


def _compile_hashmod(rule: RelabelConfig, valid: _ValidName) -> Rule:
    modulus = rule.modulus

    def remainder(text: bytes) -> bytes:
        digest = md5(text, usedforsecurity=False).digest()
        return b"%d" % (int.from_bytes(digest[-_UINT64_BYTES:], "big") % modulus)

    return _compile_setting(rule, valid, make=remainder)


def _compile_labelmap(rule: RelabelConfig, _valid: _ValidName) -> Rule:
    pattern = Pattern(rule.regex)
    replacement, groups_of = pattern.template(rule.replacement), _groups(pattern)

    def map_names(labels: _Labels) -> bool:
        for name, value in list(labels.pairs.items()):
            groups = groups_of(name)
            # No receiver takes a label without a name.
            if groups is not None and (new_name := replacement(groups)):
                labels.set(new_name, value)
        return True

    return map_names


def _compile_removal(rule: RelabelConfig, _valid: _ValidName, *, removes: bool) -> Rule:
    fits = _fits(rule)

    def remove(labels: _Labels) -> bool:
        for name in [name for name in labels.pairs if fits(name) is removes]:
            labels.remove(name)
        return True

    return remove


def lower(text: bytes) -> bytes:
    """Lower case letter by letter, as Go does: no letter becomes two, and none depends on its neighbours."""
    if text.isascii():
        return text.lower()
    return "".join([made if len(made := letter.lower()) == 1 else made[0] for letter in text.decode()]).encode()


def upper(text: bytes) -> bytes:
    """Upper case letter by letter, as Go does: a letter that has none of one letter stays, such as the sharp s."""
    if text.isascii():
        return text.upper()
    return "".join([_upper_letter(letter) for letter in text.decode()]).encode()


def _upper_letter(letter: str) -> str:
    # Where the full upper case has several letters, the simple one is the title case, if that is one letter.
    return next((made for made in (letter.upper(), letter.title()) if len(made) == 1), letter)


_COMPILERS: dict[str, Callable[[RelabelConfig, _ValidName], Rule]] = {
    "replace": _compile_replace,
    "keep": partial(_compile_filter, keeps=True),
    "drop": partial(_compile_filter, keeps=False),
    "keepequal": partial(_compile_comparison, keeps=True),
    "dropequal": partial(_compile_comparison, keeps=False),
    "hashmod": _compile_hashmod,
    "labelmap": _compile_labelmap,
    "labeldrop": partial(_compile_removal, removes=True),
    "labelkeep": partial(_compile_removal, removes=False),
    "lowercase": partial(_compile_setting, make=lower),
    "uppercase": partial(_compile_setting, make=upper),
}
