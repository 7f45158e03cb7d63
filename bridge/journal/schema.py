"""The journal file's tables, as SQL text and the version number that goes with them.

Owns what the file looks like, nothing else: no connection is opened and no statement is run here.
A change of any table is a new `VERSION`; an agent refuses a file that is newer than itself.
"""

VERSION = 1

FILE_NAME = "journal.db"

# journal.total is the number of samples ever accepted up to and including the row: it lets recovery find the
# total again when the meta table is lost. body stands last so that the other columns are read without it.
# meta.tick_ms is the newest point of the grid for which repeats may have been sent.
# meta.state_seq: rows behind it may tell values of their groups that the groups table does not have yet; those up to
# a group's own seq do not.
# journal.kinds: bits of what the body holds besides plain samples, so that nobody has to look.
# runs.closed is 1 once the group has ended; -1 stands for what a run does not say.
# dead_letter_totals is kept by triggers: what is kept is known without looking at all of it.
# meta.last_seq keeps sequence numbers from being given out again after the newest rows were removed.
TABLES = {
    "journal": """CREATE TABLE journal (
        seq INTEGER PRIMARY KEY,
        arrival_ms INTEGER NOT NULL,
        grp BLOB NOT NULL,
        operation TEXT NOT NULL,
        samples INTEGER NOT NULL,
        total INTEGER NOT NULL,
        kinds INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL)""",
    "groups": """CREATE TABLE groups (
        key BLOB PRIMARY KEY NOT NULL,
        seq INTEGER NOT NULL,
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
        dropped TEXT NOT NULL,
        dead_lettered TEXT NOT NULL)""",
    "dead_letters": """CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        target TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        samples INTEGER NOT NULL,
        status INTEGER NOT NULL,
        words TEXT NOT NULL,
        maybe_stored INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        body BLOB NOT NULL)""",
    "dead_letter_totals": """CREATE TABLE dead_letter_totals (
        target TEXT PRIMARY KEY NOT NULL,
        samples INTEGER NOT NULL,
        bytes INTEGER NOT NULL)""",
    "keys": """CREATE TABLE keys (
        grp BLOB NOT NULL,
        key TEXT NOT NULL,
        digest BLOB NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (grp, key))""",
    "deliveries": """CREATE TABLE deliveries (
        target TEXT NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        reason TEXT NOT NULL,
        words TEXT NOT NULL,
        PRIMARY KEY (target, first_seq))""",
    "runs": """CREATE TABLE runs (
        grp BLOB NOT NULL,
        start_ms INTEGER NOT NULL,
        end_ms INTEGER NOT NULL,
        success INTEGER NOT NULL,
        exit_code INTEGER NOT NULL,
        duration_ms INTEGER NOT NULL,
        max_rss_bytes INTEGER NOT NULL,
        every_ms INTEGER NOT NULL,
        grace_ms INTEGER NOT NULL,
        closed INTEGER NOT NULL,
        PRIMARY KEY (grp, start_ms))""",
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL)",
}
"""Table name to the statement that makes it; every table has a rowid, so that recovery can walk each by number."""

META = frozenset({"schema_version", "journal_id", "accepted_total", "last_seq", "state_seq", "tick_ms"})
"""Names in the meta table."""

# In a damaged file a value may have another type than its column; as the right type it fails its checksum.
READ_ROWS = """SELECT seq, CAST(samples AS INTEGER), CAST(arrival_ms AS INTEGER), crc, CAST(grp AS BLOB),
    CAST(kinds AS INTEGER), CAST(body AS BLOB) FROM journal WHERE seq > ? AND seq <= ? ORDER BY seq"""
READ_GROUPS = """SELECT CAST(key AS BLOB), CAST(seq AS INTEGER), CAST(last_ms AS INTEGER), CAST(push_ms AS INTEGER),
    CAST(failure_ms AS INTEGER), live, CAST(expires_ms AS INTEGER), hold, crc, CAST(doubles AS BLOB)
    FROM groups ORDER BY key"""
READ_CURSORS = """SELECT CAST(target AS BLOB), CAST(seq AS INTEGER), CAST(start_total AS INTEGER),
    CAST(delivered AS INTEGER), CAST(dropped AS BLOB), CAST(dead_lettered AS BLOB) FROM cursors ORDER BY target"""
READ_PARTS = """SELECT crc, CAST(families AS BLOB), CAST(heads AS BLOB) FROM group_parts
    WHERE grp = ? ORDER BY position"""

_LETTER_BYTES = 100
"""Of a dead letter, besides its body and words."""
FILL = (
    f"""CREATE TRIGGER dead_letter_comes AFTER INSERT ON dead_letters BEGIN
        INSERT INTO dead_letter_totals
        VALUES (new.target, new.samples, length(new.body) + length(new.words) + {_LETTER_BYTES})
        ON CONFLICT (target) DO UPDATE SET samples = samples + excluded.samples, bytes = bytes + excluded.bytes; END""",  # noqa: S608
    f"""CREATE TRIGGER dead_letter_goes AFTER DELETE ON dead_letters BEGIN
        UPDATE dead_letter_totals SET samples = samples - old.samples,
        bytes = bytes - length(old.body) - length(old.words) - {_LETTER_BYTES} WHERE target = old.target; END""",  # noqa: S608
    """CREATE TRIGGER dead_letter_shrinks AFTER UPDATE OF samples, words, body ON dead_letters BEGIN
        UPDATE dead_letter_totals SET samples = samples - old.samples + new.samples,
        bytes = bytes - length(old.body) - length(old.words) + length(new.body) + length(new.words)
        WHERE target = old.target; END""",
    "CREATE INDEX journal_arrival ON journal (arrival_ms)",
    "CREATE INDEX keys_at ON keys (at_ms)",
    "CREATE INDEX runs_start ON runs (start_ms)",
    f"INSERT INTO meta VALUES ('schema_version', {VERSION}), ('journal_id', abs(random() % {1 << 32}))",  # noqa: S608
    "INSERT INTO meta VALUES ('accepted_total', 0), ('last_seq', 0), ('state_seq', 0), ('tick_ms', 0)",
)
