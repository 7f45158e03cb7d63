"""The structure, held: who may import whom, how large a module may grow, what pure code must not touch."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bridge"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if "_pb" not in path.parts and path.name != "__init__.py"
}
# From the bottom up; a module imports from lower rows, and from its own package within its row.
LEVELS = (
    {"bridge.reasons"},
    {
        "bridge.errors",
        "bridge.model",
        "bridge.durations",
        "bridge.peer",
        "bridge.regex",
        "bridge.sizes",
        "bridge.tenant",
        "bridge.journal.rows",
        "bridge.journal.schema",
    },
    {
        "bridge.wire",
        "bridge.moments",
        "bridge.journal.news",
        "bridge.journal.cursor_table",
        "bridge.journal.ahead",
        "bridge.journal.directory",
        "bridge.journal.notes",
        "bridge.journal.run_table",
        "bridge.journal.letter_table",
    },
    {"bridge.config", "bridge.exposition", "bridge.delivery.outcome", "bridge.delivery.backoff"},
    {
        "bridge.delivery.taken",
        "bridge.ingress",
        "bridge.rules",
        "bridge.content",
        "bridge.heartbeat",
        "bridge.delivery.first_of",
        "bridge.delivery.slots",
        "bridge.delivery.throttle",
        "bridge.delivery.secret_file",
        "bridge.delivery.auth",
        "bridge.delivery.aws",
        "bridge.delivery.oauth2",
        "bridge.delivery.proxies",
        "bridge.delivery.redirects",
        "bridge.delivery.session",
        "bridge.delivery.sigv4",
        "bridge.delivery.tls",
    },
    {"bridge.delivery.relabel", "bridge.delivery.age"},
    {"bridge.delivery.rewrite", "bridge.delivery.split", "bridge.delivery.scaling"},
    {"bridge.posting"},
    {"bridge.flags"},
    {"bridge.push", "bridge.wrapper"},
    {
        "bridge.log",
        "bridge.groups",
        "bridge.journal.fates",
        "bridge.descriptions",
        "bridge.selector",
        "bridge.delivery.batch",
        "bridge.delivery.client",
        "bridge.delivery.connect",
        "bridge.delivery.negotiation",
        "bridge.delivery.confirmations",
        "bridge.journal.ledger",
    },
    {"bridge.registry", "bridge.delivery.target", "bridge.delivery.window", "bridge.browse.series"},
    {"bridge.delivery.courier", "bridge.delivery.shards"},
    {"bridge.delivery.lanes", "bridge.delivery.options"},
    {"bridge.delivery.repeats"},
    {"bridge.limits", "bridge.runs", "bridge.schedule"},
    {
        "bridge.flatten",
        "bridge.encode",
        "bridge.hold",
        "bridge.journal.recovery",
        "bridge.delivery.metadata",
        "bridge.delivery.resend",
        "bridge.delivery.sender",
    },
    {"bridge.journal.store", "bridge.journal.reader", "bridge.journal.history", "bridge.receiver"},
    {"bridge.journal.archive", "bridge.browse.letters"},
    {"bridge.journal.staging"},
    {"bridge.journal.committer", "bridge.restore"},
    {"bridge.pipeline", "bridge.telemetry", "bridge.collectors", "bridge.timekeeper"},
    {"bridge.settings"},
    {"bridge.web", "bridge.textfile"},
    {"bridge.targets", "bridge.outlet"},
    {"bridge.reload"},
    {"bridge.app"},
    {"bridge.demo", "bridge.migration", "bridge.browse"},
    {"bridge.cli"},
    {"bridge.__main__"},
)
PURE = (
    "bridge.model",
    "bridge.moments",
    "bridge.regex",
    "bridge.journal.fates",
    "bridge.journal.ledger",
    "bridge.browse.series",
    "bridge.browse.letters",
    "bridge.browse.account",
    "bridge.content",
    "bridge.groups",
    "bridge.descriptions",
    "bridge.registry",
    "bridge.heartbeat",
    "bridge.hold",
    "bridge.limits",
    "bridge.runs",
    "bridge.schedule",
    "bridge.rules",
    "bridge.selector",
    "bridge.tenant",
    "bridge.delivery.age",
    "bridge.delivery.batch",
    "bridge.delivery.relabel",
    "bridge.delivery.rewrite",
    "bridge.delivery.scaling",
    "bridge.delivery.split",
    "bridge.delivery.taken",
    "bridge.delivery.target",
    "bridge.delivery.window",
    "bridge.flatten",
    "bridge.encode",
    "bridge.wire.",
    "bridge.delivery.proxies",
    "bridge.delivery.redirects",
    "bridge.delivery.sigv4",
    "bridge.exposition",
    "bridge.ingress.directive",
    "bridge.ingress.terms",
    "bridge.migration.convert",
    "bridge.wrapper.report",
    "bridge.textfile.plan",
    "bridge.textfile.dropped",
)
IMPURE = {"asyncio", "socket", "sqlite3", "time", "os", "pathlib", "random", "threading", "aiohttp", "structlog"}
MOST_LINES, MOST_FUNCTION_LINES = 400, 60


def level(module: str) -> int:
    """Row of a module in the table."""
    for number, names in enumerate(LEVELS):
        if module in names or module.rpartition(".")[0] in names:
            return number
    raise AssertionError(f"{module} has no row in LEVELS: say where it belongs")


def imports(path: Path) -> Iterator[str]:
    """Names of all modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                full if (full := f"{node.module}.{name.name}") in MODULES else node.module for name in node.names
            )
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    """A module knows only what lies below it, or beside it in its own package."""
    for other in imports(MODULES[module]):
        if other in MODULES and level(other) >= level(module):
            assert level(other) == level(module), f"{module} imports {other}, which lies above it"
            assert other.rpartition(".")[0] == module.rpartition(".")[0], f"{module} imports {other} across its row"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith(PURE)))
def test_pure_code_does_no_io(module: str) -> None:
    """Parsing, encoding and deciding import nothing that reads a clock, a file or a socket."""
    touched = {name.partition(".")[0] for name in imports(MODULES[module])} & IMPURE
    assert not touched


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_and_functions_stay_readable(module: str) -> None:
    """A module that outgrows an evening's reading has two jobs; each one says which one it has."""
    text = MODULES[module].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MOST_LINES
    if module != "bridge.__main__":
        assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MOST_FUNCTION_LINES, f"{module}.{node.name} has {length} lines"
