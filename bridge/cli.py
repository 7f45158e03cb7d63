"""The command line: commands, flags made from the settings' declarations, exit codes.

0 is success, 2 a start that is not possible. `push` and `exec` have modules of their own, which do without the agent.
"""

import asyncio
import gc
import logging
import signal
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

import click
import structlog
import uvloop
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge import __version__
from bridge.app import Agent, run_until_signal
from bridge.browse.command import journal
from bridge.browse.dead_letters import dead_letters
from bridge.browse.options import moment, told_faults
from bridge.config.document import Document
from bridge.config.doubts import doubts
from bridge.config.file import Check, Config, load, read, read_text
from bridge.config.sections import Log, Push, Storage, Web
from bridge.config.units import split_address
from bridge.demo import AGENT_ADDRESS, run_demo
from bridge.errors import ConfigError
from bridge.log import set_up as set_up_log
from bridge.migration.command import import_groups
from bridge.push import push
from bridge.receiver import SampleStore, serve
from bridge.textfile.files import DIRECTORIES_ARE_THERE
from bridge.wrapper.command import exec_

_SECTIONS: dict[str, type[BaseModel]] = {"web": Web, "storage": Storage, "push": Push, "log": Log}


def _setting_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for every key of every section."""
    for section, model in reversed(_SECTIONS.items()):
        for key, field in reversed(model.model_fields.items()):
            command = _flag(section, key, field)(command)
    return command


def _flag(section: str, key: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    default = str(field.default).lower() if isinstance(field.default, bool) else field.default
    name = f"--{section}.{key.replace('_', '-')}"
    text = f"{field.description} [default: {default}]" if default != "" else field.description
    if field.annotation is bool:
        return click.option(name, f"{section}__{key}", is_flag=True, default=None, help=text)
    words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    metavar = f"[{'|'.join(words)}]" if words else "VALUE"
    return click.option(name, f"{section}__{key}", default=None, metavar=metavar, help=text)


def read_config(
    file: str | None,
    urls: tuple[str, ...],
    flags: dict[str, object],
    directories: tuple[str, ...] = (),
    checks: tuple[Check, ...] = (),
) -> Config:
    """Config from file and flags; raises ConfigError."""
    overrides: dict[str, dict[str, object]] = {}
    for name, value in flags.items():
        if value is not None:
            section, _, key = name.partition("__")
            overrides.setdefault(section, {})[key] = value
    if urls:
        overrides["remote_write"] = {"targets": [{"url": url} for url in urls]}
    if directories:
        overrides["textfile"] = {"directories": [{"directory": directory} for directory in directories]}
    return read(file, overrides, checks)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pushbridge")
def main() -> None:
    """Take Prometheus pushes, keep them on disk, deliver them by remote_write."""


main.add_command(push)
main.add_command(exec_)
main.add_command(import_groups)
main.add_command(journal)
main.add_command(dead_letters)


def _since(context: click.Context, parameter: click.Parameter, text: str | None) -> Callable[[], int | None]:
    """Check the text now and read it each time: 6h is 6 hours before a reload, too."""
    moment(context, parameter, text)
    return lambda: moment(context, parameter, text)


@main.command()
@click.option("--config.file", "file", metavar="FILE", help="Configuration file (YAML); flags stand over it.")
@click.option("--remote-write.url", "urls", multiple=True, metavar="URL", help="Deliver to this endpoint; repeatable.")
@click.option(
    "--remote-write.since",
    "since",
    metavar="WHEN",
    callback=_since,
    help="Targets that are new get what the journal has from then on: 6h (ago), RFC 3339, unix seconds. [default: now]",
)
@click.option(
    "--textfile.directory",
    "directories",
    multiple=True,
    metavar="DIR",
    help="Collect the *.prom files of this directory; repeatable.",
)
@_setting_flags
def run(
    file: str | None,
    urls: tuple[str, ...],
    since: Callable[[], int | None],
    directories: tuple[str, ...],
    **flags: object,
) -> None:
    """Run the agent until SIGTERM or Ctrl-C; SIGHUP reads the configuration again."""
    with told_faults():
        config = read_config(file, urls, flags, directories, (DIRECTORIES_ARE_THERE,))
        set_up_log(config.log)
        uvloop.run(_run(config, since, lambda: read_config(file, urls, flags, directories)))


async def _run(config: Config, since_ms: Callable[[], int | None], read: Callable[[], Config]) -> None:
    await run_until_signal(Agent(config, new_targets_since_ms=since_ms, read=read), _freeze)


def _freeze(_url: str) -> None:
    """Keep what the start made out of later garbage collections: pushes would wait a tenth of a second in each."""
    gc.collect()
    gc.freeze()


@main.command("check-config")
@click.argument("file")
def check_config(file: str) -> None:
    """Check a configuration file; exit 2 names every fault with its line.

    What is accepted and hardly meant is a warning on stderr, with exit code 0.
    """
    with told_faults():
        text = read_text(file)
        config = load(text, file, checks=(DIRECTORIES_ARE_THERE,))
    document = Document(text, file)
    for doubt in doubts(config):
        click.echo(f"{document.at(doubt.path)}: {doubt.kind}: {doubt.key}: {doubt.words}", err=True)
    if not document.sections:
        click.echo(f"{file}: note: nothing is set, so the defaults hold", err=True)
    click.echo(f"{file}: ok")


@main.command()
@click.option("--listen-address", default="127.0.0.1:9099", show_default=True, help="Address to listen on.")
@click.option(
    "--file", "file", default=":memory:", metavar="FILE", help="SQLite file for the samples [default: memory]."
)
def receiver(listen_address: str, file: str) -> None:
    """Run the embedded remote_write receiver alone: a page at / shows what arrived."""
    with told_faults():
        try:
            host, port = split_address(listen_address)
            store = SampleStore(file)
            uvloop.run(_receive(store, host, port))
        except (OSError, ValueError, sqlite3.Error) as error:
            raise ConfigError(f"receiver: {error}") from error


async def _receive(store: SampleStore, host: str, port: int) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    started = lambda url: click.echo(f"receiving on {url}/api/v1/write, page {url}/")  # noqa: E731
    serving = asyncio.create_task(serve(store, host, port, started))
    await asyncio.wait([serving, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


@main.command()
@click.option("--for", "seconds", type=float, default=None, metavar="SECONDS", help="Stop by itself [default: never].")
@click.option("--listen-address", metavar="ADDRESS", help=f"Of the agent. [default: {AGENT_ADDRESS}, or a free port]")
def demo(seconds: float | None, listen_address: str | None) -> None:
    """Show the whole way on this machine: agent, receiver and a job that pushes.

    Needs no privileges, no network and leaves nothing behind; Ctrl-C ends it.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with told_faults():
        uvloop.run(run_demo(seconds, click.echo, listen_address))
