"""What the file of a journal says, read with plain SQL and not with the agent's own code.

Here the samples that are pending are counted row by row, while an agent tells what its totals leave; so an account that
is balanced here is right. Judging runs does not belong here.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from tests.blackbox.checker import Stored
from tests.blackbox.load import Account
from tests.blackbox.scripted_receiver import samples_in


def accounts_in(directory: Path) -> dict[str, Account]:
    """Give the account of every target as it is at one moment, none when there is no readable file at that moment."""
    path = directory / "storage" / "journal.db"
    if not path.exists():
        return {}
    with closing(_open(path)) as journal:
        try:
            journal.execute("BEGIN")
            ((accepted,),) = journal.execute("SELECT value FROM meta WHERE name = 'accepted_total'").fetchall()
        except sqlite3.OperationalError:
            return {}
        cursors = journal.execute("SELECT target, seq, delivered, dropped, dead_lettered FROM cursors").fetchall()
        return {
            target: Account(
                accepted, delivered, _samples_behind(journal, seq), _totals(dropped), _totals(dead_lettered)
            )
            for target, seq, delivered, dropped, dead_lettered in cursors
        }


def accepted_in(directory: Path) -> list[Stored]:
    """Give all samples of the rows that the journal still has, in order."""
    with closing(_open(directory / "storage" / "journal.db")) as journal:
        return [
            sample
            for (body,) in journal.execute("SELECT body FROM journal ORDER BY seq")
            for sample in samples_in(body)
        ]


def steps_back(before: Mapping[str, Account], now: Mapping[str, Account]) -> list[str]:
    """Name the totals that are less than they were, which none may ever be."""
    return [
        f"{target}: {name} was {was}, is {after.get(name, 0)}"
        for target in before.keys() & now.keys()
        for totals, after in [(_flat(before[target]), _flat(now[target]))]
        for name, was in totals.items()
        if after.get(name, 0) < was
    ]


def _open(path: Path) -> sqlite3.Connection:
    # Read-only, so that nothing is folded in: the next start finds the files as the kill left them.
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def _samples_behind(journal: sqlite3.Connection, seq: int) -> int:
    ((samples,),) = journal.execute("SELECT coalesce(sum(samples), 0) FROM journal WHERE seq > ?", (seq,)).fetchall()
    return int(samples)


def _totals(text: str) -> dict[str, int]:
    return dict(json.loads(text))


def _flat(account: Account) -> dict[str, int]:
    return {
        "accepted": account.accepted,
        "delivered": account.delivered,
        **{f"dropped {reason}": samples for reason, samples in account.dropped.items()},
        **{f"dead_lettered {reason}": samples for reason, samples in account.dead_lettered.items()},
    }
