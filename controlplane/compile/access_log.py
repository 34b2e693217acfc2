"""The access log: one JSON line per request on standard output, naming the route and the spec it comes from.

No query, cookie or authorisation header is logged; Envoy escapes what clients sent.
"""

from __future__ import annotations

from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from google.protobuf.struct_pb2 import Struct

from controlplane.filters.envoy import packed

FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "durationMs": "%DURATION%",
    "bytesIn": "%BYTES_RECEIVED%",
    "bytesOut": "%BYTES_SENT%",
    "clientIP": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "requestId": "%REQ(X-REQUEST-ID)%",
    "route": "%METADATA(ROUTE:gatewayspec:route)%",
    "spec": "%METADATA(ROUTE:gatewayspec:spec)%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
}


def access_log() -> Any:
    """The access log of every listener."""
    fields = Struct()
    fields.update(FIELDS)
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stdout",
        typed_config=packed(
            stream_pb2.StdoutAccessLog(
                log_format=substitution_format_string_pb2.SubstitutionFormatString(json_format=fields)
            )
        ),
    )
