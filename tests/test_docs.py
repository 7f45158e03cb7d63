"""The documents say what the code does: every setting, command and guarantee that they name exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from bridge.cli import main
from bridge.config.file import Config, load
from bridge.config.remote_write import REFUSED, RemoteWrite
from bridge.config.sections import Rule, Textfile

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_ITEMS: dict[str, type[BaseModel]] = {"remote_write": RemoteWrite, "rules": Rule, "textfile": Textfile}
EXAMPLE = ROOT / "deploy" / "pushbridge.yml"
_DECLARED_IN = ("telemetry.py", "collectors.py", "heartbeat.py", "wrapper/report.py")


def models(annotation: object) -> Iterator[type[BaseModel]]:
    """Sections that a type holds: itself, or what is optional, in a list or in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def keys(model: type[BaseModel]) -> Iterator[str]:
    """Every key of a section, with those of the sections inside it."""
    for name, field in model.model_fields.items():
        yield name
        for inner in models(field.annotation):
            yield from keys(inner)


def sections() -> Iterator[tuple[str, set[str]]]:
    """Name and keys of each section of the configuration."""
    for name, field in Config.model_fields.items():
        model = _ITEMS.get(name) or field.annotation
        assert isinstance(model, type)
        yield field.alias or name, set(keys(model))


def test_the_example_shows_every_setting_with_its_default() -> None:
    """deploy/pushbridge.yml loads, has every key, and changes nothing but the one target."""
    text = EXAMPLE.read_text(encoding="utf-8")
    shown = load(text, str(EXAMPLE))
    document = yaml.safe_load(text)
    for section, wanted in sections():
        if section in _ITEMS:
            assert [key for key in wanted if f"{key}:" not in text] == []
        else:
            assert set(document[section]) == wanted, section
    target = RemoteWrite(url="http://127.0.0.1:9090/api/v1/write", name="prometheus")
    assert shown == Config(remote_write=(target,))


def test_the_readme_lists_every_setting() -> None:
    """The table of settings has a row per section with all of its keys."""
    rows = {row.split("`")[1]: set(row.split("`")[1::2]) for row in README.splitlines() if row.startswith("| `")}
    for section, wanted in sections():
        if section != "remote_write":
            assert rows[section] == {section, *wanted}, section


def test_the_readme_lists_every_key_of_a_target() -> None:
    """The tables of the remote_write block have each key of Prometheus' own: supported, with a warning, refused."""
    part = README.partition("### The remote_write block")[2].partition("\n## ")[0]
    rows = (row for row in part.splitlines() if row.startswith("| "))
    listed = {word.partition(":")[0] for row in rows for word in row.split("`")[1::2]}
    refused = {key.rpartition(".")[2] for key in REFUSED}
    assert {*keys(RemoteWrite), *refused} - listed == set()


def commands(group: click.Group, before: str = "") -> Iterator[str]:
    """Every command, with those inside of it."""
    for name, command in sorted(group.commands.items()):
        yield f"{before}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")


@pytest.mark.parametrize("command", list(commands(main)))
def test_the_readme_shows_every_command(command: str) -> None:
    """Each command stands in README and explains itself."""
    assert f"pushbridge {command}" in README
    answer = CliRunner().invoke(main, [*command.split(), "--help"])
    assert answer.exit_code == 0
    assert len(answer.output.splitlines()) > len(("usage", "blank", "sentence"))


def declared(name: str) -> bool:
    """Whether a metric is declared in the code."""
    source = "".join((ROOT / "bridge" / file).read_text(encoding="utf-8") for file in _DECLARED_IN)
    return f'"{name.removesuffix("_total")}"' in source


@pytest.mark.parametrize("name", sorted(set(re.findall(r"pushbridge_[a-z_]+", README))))
def test_every_metric_in_the_readme_exists(name: str) -> None:
    """A metric that README tells users to watch is declared in the code."""
    assert declared(name)


def test_every_link_in_the_readme_leads_somewhere() -> None:
    """Links to parts of README name a heading, as GitHub spells it; links to files name one that exists."""
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(([^)]+)\)", README))
    assert {link for link in links if link.startswith("#")} - {f"#{anchor}" for anchor in anchors} == set()
    assert [link for link in links if link[0] != "#" and "://" not in link and not (ROOT / link).exists()] == []


def test_the_readme_opens_with_the_two_commands() -> None:
    """A new user finds `make demo` and `make test` on the first screen, and both are targets."""
    first_screen = "\n".join(README.splitlines()[:16])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in first_screen
        assert f"\n{target}:" in makefile
