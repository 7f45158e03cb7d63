"""The YAML text of a configuration: what it says, and in which line.

Owns the reading of YAML and its errors. What the keys mean is not known here.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from bridge.config.faults import KeyPath
from bridge.errors import ConfigError

_QUOTED = re.compile(r"'[^'<]{2,}'")


class _AsWritten(yaml.SafeLoader):
    """Reads scalars as they are written, only null is none: a tenant 007 and a password 1e3 are texts.

    The settings' types do the rest.
    """


_AsWritten.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag in {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Document:
    """A text that was read."""

    def __init__(self, text: str, source: str) -> None:
        """Read it; raises ConfigError when it is no YAML, or no mapping."""
        self.source = source
        try:
            self._node = yaml.compose(text, Loader=_AsWritten)
            sections = yaml.load(text, Loader=_AsWritten)  # noqa: S506 - a SafeLoader that makes even fewer things
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{source}:{mark.line + 1}" if mark else source
            # What the parser quotes may be a password that begins with one of YAML's own characters.
            problem = _QUOTED.sub("'...'", getattr(error, "problem", None) or "cannot be read")
            raise ConfigError(f"{where}: not valid YAML: {problem}") from None
        if sections is None:
            sections = {}
        if not isinstance(sections, dict):
            raise ConfigError(f"{source}: want a mapping of sections at the top, got {type(sections).__name__}")
        self.sections: dict[str, Any] = sections

    def line(self, path: KeyPath) -> int:
        """Line of the deepest part of `path` that the text has, 0 when it has none of it."""
        node, line = self._node, 0
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in reversed(node.value) if pair[0].value == part), None)
                if found is None:
                    return line
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                return line
        return line

    def at(self, path: KeyPath) -> str:
        """Source and line, for messages."""
        line = self.line(path)
        return f"{self.source}:{line}" if line else self.source

    def repeated(self) -> Iterator[tuple[int, str]]:
        """Give line and name of every key that stands twice in its mapping: one of the two would be lost."""
        seen: set[int] = set()
        nodes = [self._node]
        while nodes:
            node = nodes.pop()
            # An alias is the node that it stands for.
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                nodes += node.value
            elif isinstance(node, yaml.MappingNode):
                nodes += [value for _, value in node.value]
                yield from _repeated_keys(node)


def _repeated_keys(node: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    names: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in names:
                yield key.start_mark.line + 1, key.value
            names.add(key.value)
