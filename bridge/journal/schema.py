"""The journal file's tables, as SQL text and the version number that goes with them.

Owns what the file looks like, nothing else: no connection is opened and no statement is run here.
A change of any table is a new `VERSION`; an agent refuses a file that is newer than itself.
"""

VERSION = 1

FILE_NAME = "journal.db"

# journal.total is the number of samples ever accepted up to and including the row: it lets recovery find the
# total again when the meta table is lost. body stands last so that the other columns are read without it.
# meta.state_seq: rows behind it may tell values of their groups that the groups table does not have yet.
# meta.last_seq keeps sequence numbers from being given out again after the newest rows were removed.
TABLES = {
    "journal": """CREATE TABLE journal (
        seq INTEGER PRIMARY KEY,
        arrival_ms INTEGER NOT NULL,
        grp BLOB NOT NULL,
        operation TEXT NOT NULL,
        samples INTEGER NOT NULL,
        total INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL)""",
    "groups": """CREATE TABLE groups (
        key BLOB PRIMARY KEY NOT NULL,
        last_ms INTEGER NOT NULL,
        push_ms INTEGER NOT NULL,
        failure_ms INTEGER NOT NULL,
        live INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        hold INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        doubles BLOB NOT NULL)""",
    "group_parts": """CREATE TABLE group_parts (
        grp BLOB NOT NULL,
        position INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        families BLOB NOT NULL,
        heads BLOB NOT NULL,
        PRIMARY KEY (grp, position))""",
    "cursors": """CREATE TABLE cursors (
        target TEXT PRIMARY KEY NOT NULL,
        seq INTEGER NOT NULL,
        start_total INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        dropped TEXT NOT NULL)""",
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL)",
}
"""Table name to the statement that makes it; every table has a rowid, so that recovery can walk each by number."""

FILL = (
    "CREATE INDEX journal_arrival ON journal (arrival_ms)",
    f"INSERT INTO meta VALUES ('schema_version', {VERSION}), ('accepted_total', 0), ('last_seq', 0), ('state_seq', 0)",  # noqa: S608
)
