"""Metadata of remote_write 1.0: what a family is, helps with and is counted in, as requests of their own.

Samples have no place for it in 1.0. Pure.
"""

from collections.abc import Iterable

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.model import MetricType

_TYPES: dict[MetricType, pb.MetricMetadata.MetricType] = {
    "untyped": pb.MetricMetadata.UNKNOWN,
    "counter": pb.MetricMetadata.COUNTER,
    "gauge": pb.MetricMetadata.GAUGE,
    "histogram": pb.MetricMetadata.HISTOGRAM,
    "gaugehistogram": pb.MetricMetadata.GAUGEHISTOGRAM,
    "summary": pb.MetricMetadata.SUMMARY,
    "info": pb.MetricMetadata.INFO,
    "stateset": pb.MetricMetadata.STATESET,
}

Described = tuple[str, MetricType, str, str]
"""Name of a family, its type, help and unit."""


def encode_metadata(families: Iterable[Described]) -> bytes:
    """Return an uncompressed WriteRequest that has nothing but the metadata of these."""
    request = pb.WriteRequest(
        metadata=[
            pb.MetricMetadata(metric_family_name=name, type=_TYPES[kind], help=text, unit=unit)
            for name, kind, text, unit in families
        ]
    )
    return request.SerializeToString()
