"""Which parser reads a body: a table by Content-Type (protocol.md section 5.3). Pure."""

from email.message import Message
from functools import lru_cache
from typing import Literal

from bridge.exposition.openmetrics import parse_openmetrics
from bridge.exposition.protobuf import parse_delimited
from bridge.exposition.template import TextFormat
from bridge.exposition.text import parse_text
from bridge.model import Family

BodyFormat = TextFormat | Literal["protobuf"]
_PARSERS = {"text": parse_text, "openmetrics": parse_openmetrics, "protobuf": parse_delimited}


@lru_cache(64)
def format_of(content_type: str) -> BodyFormat:
    """The format that a Content-Type names; whatever is no known one is text, as curl sends it."""
    message = Message()
    message["Content-Type"] = content_type
    try:
        found = message.get_content_type(), message.get_param("proto"), message.get_param("encoding")
    except ValueError:
        return "text"
    match found:
        case "application/vnd.google.protobuf", "io.prometheus.client.MetricFamily", "delimited":
            return "protobuf"
        case "application/openmetrics-text", _, _:
            return "openmetrics"
        case _:
            return "text"


def parse_body(body: bytes, content_type: str, *, utf8_names: bool) -> tuple[Family, ...]:
    """Parse a decoded body; raises BadPushError."""
    return _PARSERS[format_of(content_type)](body, utf8_names=utf8_names)
