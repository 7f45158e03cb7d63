"""`python -m bridge` is the command `pushbridge`."""

from bridge.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="pushbridge")
