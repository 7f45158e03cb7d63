"""Which parser reads a body: a table by Content-Type (protocol.md section 5.3). Pure."""

from email.message import Message

from bridge.exposition.openmetrics import parse_openmetrics
from bridge.exposition.protobuf import parse_delimited
from bridge.exposition.text import parse_text
from bridge.model import Family


def parse_body(body: bytes, content_type: str, *, utf8_names: bool) -> tuple[Family, ...]:
    """Parse a decoded body; anything that is neither protobuf nor OpenMetrics is text 0.0.4, as curl sends it.

    Raises BadPushError.
    """
    message = Message()
    message["Content-Type"] = content_type
    match message.get_content_type(), message.get_param("proto"), message.get_param("encoding"):
        case "application/vnd.google.protobuf", "io.prometheus.client.MetricFamily", "delimited":
            return parse_delimited(body, utf8_names=utf8_names)
        case "application/openmetrics-text", _, _:
            return parse_openmetrics(body, utf8_names=utf8_names)
        case _:
            return parse_text(body, utf8_names=utf8_names)
