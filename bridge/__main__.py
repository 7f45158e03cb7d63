"""The command `pushbridge`, also as `python -m bridge`.

`exec` and `push` run beside every cron job, so they start without the agent and its libraries.
"""

import sys

__all__ = ["main"]
_INTERRUPTED = 130


def main() -> None:
    """Run the command that the arguments name."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name == "exec":
        from bridge.wrapper.command import exec_  # noqa: PLC0415 - only this one is paid for

        exec_(sys.argv[2:], prog_name="pushbridge exec")
    elif name == "push":
        from bridge.push import push  # noqa: PLC0415 - only this one is paid for

        push(sys.argv[2:], prog_name="pushbridge push")
    else:
        try:
            from bridge.cli import main as any_command  # noqa: PLC0415 - brings the agent with all its libraries

            any_command(prog_name="pushbridge")
        except KeyboardInterrupt:
            # Ctrl-C before anything has started.
            sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
