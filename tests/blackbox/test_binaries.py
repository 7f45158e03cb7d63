"""Which tests of real servers run where: what a variable names, what is too old, what has to be there in CI."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox import binaries
from tests.blackbox.servers import needs


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at versions anew, and find nothing but what a test names."""
    for variable in binaries.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "/bin/nowhere")
    binaries.version.cache_clear()
    yield
    binaries.version.cache_clear()


def skips(mark: pytest.MarkDecorator) -> bool:
    """Whether a test with this mark does not run."""
    return bool(mark.args[0])


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("prometheus, version 3.13.2 (branch: HEAD)", (3, 13, 2)),
        ("victoria-metrics-20260828-134629-tags-v1.151.0-0-gabc", (1, 151, 0)),
        ("prometheus, version  (branch: )", (1 << 16,)),
    ],
)
def test_a_variable_names_another_binary(
    says: str, version: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is the one that it tells; one that tells none is as new as can be."""
    path = tmp_path / "newer"
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    path.chmod(0o755)
    monkeypatch.setenv("PUSHBRIDGE_TEST_PROMETHEUS", str(path))
    assert binaries.version("prometheus") == version
    assert not skips(needs("prometheus"))
    assert skips(binaries.needs_version("prometheus", (1 << 17,), "why"))


@pytest.mark.parametrize("ci", ["", "true"])
def test_what_is_not_there(ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In CI Debian's servers have to be there; what Debian does not have, or has too old, is skipped everywhere."""
    monkeypatch.setenv("CI", ci)
    assert skips(needs("prometheus")) == (ci == "")
    assert skips(needs("mimir"))
    assert skips(binaries.needs_version("prometheus", (3, 8), "why"))
    monkeypatch.setenv("PUSHBRIDGE_TEST_MIMIR", "/no/such/file")
    assert not skips(needs("mimir"))
