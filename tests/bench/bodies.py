"""Push bodies as batch jobs write them: text 0.0.4, a histogram among gauges and counters, values that change.

All variants of a size have the same series, as the pushes of one job have. Pure and repeatable.
"""

from collections.abc import Iterator
from random import Random

_STAGES = ("extract", "transform", "validate", "load", "publish")
_FACTS = (
    ("rows_total", "counter", "Rows handled by this stage since the job began."),
    ("bytes_total", "counter", "Bytes read and written by this stage."),
    ("errors_total", "counter", "Rows that this stage could not handle."),
    ("duration_seconds", "gauge", "Wall time of this stage in the last run."),
    ("lag_seconds", "gauge", "Age of the newest row when the stage ended."),
    ("table_size_bytes", "gauge", "Size of the table on disk after the stage."),
)
_SMALLEST = 10
_LEAST_PER_FAMILY = 10
_SHORT_BOUNDS = ("0.5", "5")
_LONG_BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5")


def make_bodies(series: int, variants: int = 8) -> tuple[bytes, ...]:
    """Write `variants` bodies of exactly `series` samples (at least 10) that differ in their values alone."""
    if series < _SMALLEST:
        raise ValueError(f"got bodies of {series} series, want at least {_SMALLEST}")
    return tuple("".join(_lines(series, Random(variant))).encode() for variant in range(variants))


def _lines(series: int, random: Random) -> Iterator[str]:
    yield from _head("batch_last_success_timestamp_seconds", "gauge", "When the job last ended well.")
    yield f"batch_last_success_timestamp_seconds {1_700_000_000 + random.random() * 1e6:.3f}\n"
    yield from _head("batch_duration_seconds", "gauge", "Wall time of the last run.")
    yield f"batch_duration_seconds {random.uniform(1, 900):.6f}\n"
    yield from _head("batch_records_total", "counter", "Records by what became of them.")
    for result in ("copied", "skipped", "failed"):
        yield f'batch_records_total{{result="{result}"}} {random.randrange(1_000_000)}\n'
    bounds = _LONG_BOUNDS if series >= 5 + len(_LONG_BOUNDS) + 3 else _SHORT_BOUNDS
    yield from _histogram("batch_chunk_duration_seconds", bounds, random)
    yield from _tables(series - 5 - len(bounds) - 3, random)


def _head(name: str, type_: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}\n", f"# TYPE {name} {type_}\n"


def _histogram(name: str, bounds: tuple[str, ...], random: Random) -> Iterator[str]:
    yield from _head(name, "histogram", "Time to copy one chunk.")
    count = 0
    for bound in (*bounds, "+Inf"):
        count += random.randrange(10_000)
        yield f'{name}_bucket{{le="{bound}"}} {count}\n'
    yield f"{name}_sum {count * random.random():.6f}\n{name}_count {count}\n"


def _tables(series: int, random: Random) -> Iterator[str]:
    """Give the rest: families by stage and fact, each with a series per table."""
    per_family = max(_LEAST_PER_FAMILY, -(-series // (len(_STAGES) * len(_FACTS))))
    for family in range(-(-series // per_family)):
        fact, type_, text = _FACTS[family % len(_FACTS)]
        name = f"warehouse_{_STAGES[family // len(_FACTS)]}_{fact}"
        yield from _head(name, type_, text)
        for table in range(min(per_family, series - family * per_family)):
            value = random.randrange(10**9) if type_ == "counter" else round(random.uniform(0, 1e6), 4)
            yield f'{name}{{schema="sales_eu",table="orders_{table:03}"}} {value}\n'
