from hypothesis import given
from hypothesis import strategies as st

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.model import MetricType
from bridge.wire.metadata import Described, encode_metadata
from tests.strategies import TEXTS, TYPES, WORDS

NUMBERS: dict[MetricType, int] = {
    "untyped": 0,
    "counter": 1,
    "gauge": 2,
    "histogram": 3,
    "gaugehistogram": 4,
    "summary": 5,
    "info": 6,
    "stateset": 7,
}


@given(st.lists(st.tuples(WORDS, st.sampled_from(TYPES), TEXTS, TEXTS), max_size=5))
def test_a_receiver_reads_the_metadata(families: list[Described]) -> None:
    """Protobuf reads name, type by the protocol's number, help and unit of each family, and no series."""
    request = pb.WriteRequest.FromString(encode_metadata(families))
    assert len(request.timeseries) == 0
    assert [(one.metric_family_name, one.type, one.help, one.unit) for one in request.metadata] == [
        (name, NUMBERS[kind], text, unit) for name, kind, text, unit in families
    ]
