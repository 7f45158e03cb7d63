"""The command line: commands, flags made from the settings' declarations, exit codes.

0 is success, 1 a push that was refused or could not be delivered, 2 a start that is not possible.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import structlog
import uvloop
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge import __version__
from bridge.app import Agent, run_until_signal
from bridge.config import Config, Log, Push, Storage, Web, load
from bridge.errors import ConfigError

_SECTIONS: dict[str, type[BaseModel]] = {"web": Web, "storage": Storage, "push": Push, "log": Log}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


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
    return click.option(name, f"{section}__{key}", default=None, metavar="VALUE", help=text)


def read_config(file: str | None, urls: tuple[str, ...], flags: dict[str, object]) -> Config:
    """Config from file and flags; raises ConfigError."""
    overrides: dict[str, dict[str, object]] = {}
    for name, value in flags.items():
        if value is not None:
            section, _, key = name.partition("__")
            overrides.setdefault(section, {})[key] = value
    if urls:
        overrides["remote_write"] = {"targets": [{"url": url} for url in urls]}
    try:
        text = Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config.file: cannot read {file}: {error}") from error
    return load(text, file or "command line", overrides)


def _set_up_log(config: Config) -> None:
    stamp = structlog.processors.TimeStamper(fmt="iso", key="ts")
    form: Any = (
        structlog.processors.JSONRenderer()
        if config.log.format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], drop_missing=True)
    )
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, structlog.processors.format_exc_info, form],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.log.level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pushbridge")
def main() -> None:
    """Take Prometheus pushes, keep them on disk, deliver them by remote_write."""


@main.command()
@click.option("--config.file", "file", metavar="FILE", help="Configuration file (YAML); flags stand over it.")
@click.option("--remote-write.url", "urls", multiple=True, metavar="URL", help="Deliver to this endpoint; repeatable.")
@_setting_flags
def run(file: str | None, urls: tuple[str, ...], **flags: object) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    try:
        config = read_config(file, urls, flags)
        _set_up_log(config)
        uvloop.run(_run(config))
    except ConfigError as error:
        click.echo(f"pushbridge: {error}", err=True)
        sys.exit(2)


async def _run(config: Config) -> None:
    await run_until_signal(Agent(config))


@main.command("check-config")
@click.argument("file")
def check_config(file: str) -> None:
    """Check a configuration file; exit 2 names every fault with its line."""
    try:
        read_config(file, (), {})
    except ConfigError as error:
        click.echo(f"pushbridge: {error}", err=True)
        sys.exit(2)
    click.echo(f"{file}: ok")


if __name__ == "__main__":
    main(prog_name="pushbridge")
