"""The command `push`: a file or standard input to the agent, once."""

import sys
from typing import BinaryIO

import click

from bridge.flags import AGENT, OneLine, group
from bridge.flags import TTL as TTL_FLAG
from bridge.ingress.terms import TTL
from bridge.peer import AwayError, Peer
from bridge.posting import send

_TIMEOUT_S = 30


@click.command(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--job", required=True, help="Job name: the first label of the group.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Another grouping label; repeatable.")
@click.option("--url", "peer", type=AGENT, default="http://127.0.0.1:9091", show_default=True, help="The agent.")
@click.option(
    "--ttl",
    type=TTL_FLAG,
    metavar="D",
    help="How long the values stay visible, for example 8d; 0 or inf. [default: the agent's]",
)
@click.option("--replace", is_flag=True, help="Replace the whole group (PUT), not only the families pushed (POST).")
@click.argument("file", type=click.File("rb"), default="-")
def push(*, job: str, labels: tuple[str, ...], peer: Peer, ttl: str | None, replace: bool, file: BinaryIO) -> None:
    """Push metrics in text format from FILE, or from standard input.

    Exits 0 when the agent has them on disk, 1 when it refused them or is not there, 2 for wrong flags.
    """
    pairs = group(job, labels)
    try:
        headers = {} if ttl is None else {TTL: ttl}
        method = "PUT" if replace else "POST"
        answer = send(peer, pairs, file.read(), _TIMEOUT_S, headers=headers, method=method)
    except AwayError as error:
        click.echo(f"pushbridge: cannot push to {peer.shown}: {error}", err=True)
        sys.exit(1)
    if not answer.is_success:
        click.echo(f"pushbridge: the agent answered {answer.status}: {answer.words}", err=True)
        sys.exit(1)
