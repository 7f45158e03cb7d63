"""Which binary stands for a real server, and how old it is.

Debian's, found on PATH, unless an environment variable names another; some receivers Debian does not have at all.
Starting a server is `servers`; what a version can do is said by the test that needs it.
"""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

import pytest

VARIABLES: Final[Mapping[str, str]] = {
    "prometheus": "PUSHBRIDGE_TEST_PROMETHEUS",
    "victoria-metrics": "PUSHBRIDGE_TEST_VICTORIAMETRICS",
    "mimir": "PUSHBRIDGE_TEST_MIMIR",
    "thanos": "PUSHBRIDGE_TEST_THANOS",
}
"""Each may hold the path of a binary."""
NOT_IN_DEBIAN: Final = frozenset({"mimir", "thanos"})
_OLDEST: Final = (0,)
_NEWEST: Final = (1 << 16,)
_SPELLED: Final = re.compile(r"(?:version |tags-v)(\d+(?:\.\d+)+)")


def command(name: str) -> str:
    """What to start for a server: the path that a variable gives, else its name."""
    return os.environ.get(VARIABLES.get(name, ""), "") or name


@functools.cache
def version(name: str) -> tuple[int, ...]:
    """Version of a server's binary; one that does not tell is as new as can be if a variable names it, else as old."""
    unknown = _OLDEST if command(name) == name else _NEWEST
    path = shutil.which(command(name))
    if path is None:
        return unknown
    told = subprocess.run([path, "--version"], capture_output=True, check=False, timeout=30)
    found = _SPELLED.search((told.stdout + told.stderr).decode(errors="replace"))
    return tuple(map(int, found[1].split("."))) if found else unknown


def needs_version(name: str, least: tuple[int, ...], why: str) -> pytest.MarkDecorator:
    """Skip a test when a server's binary is older than `least`, with CI=true too: Debian has the one that it has."""
    found, wanted = (".".join(map(str, one)) for one in (version(name), least))
    reason = f"{name} {found} is older than {wanted}, {why}; {VARIABLES[name]} may name a newer one"
    return pytest.mark.skipif(version(name) < least, reason=reason)


def takes(version: str) -> pytest.MarkDecorator:
    """Skip a test of remote_write 2.0, in the form that start times have now, where Prometheus does not take it."""
    least = (3, 8) if version == "2.0" else _OLDEST
    return needs_version("prometheus", least, "the first to take remote_write 2.0 (rc.4)")


VERSIONS: Final = tuple(pytest.param(version, marks=takes(version)) for version in ("1.0", "2.0"))
"""Parameters of a test that runs in each version of remote_write that Prometheus takes."""
