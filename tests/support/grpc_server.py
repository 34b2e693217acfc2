"""An xDS-enabled gRPC server as a process of its own: `python -m tests.support.grpc_server ADDRESS`.

It answers every method that reaches it with `served METHOD`, and says `serving` when its listener has come.
"""

from __future__ import annotations

import sys
import threading
from concurrent import futures
from typing import Any

import grpc


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def service(self, details: Any) -> Any:
        answer = f"served {details.method}".encode()
        return grpc.unary_unary_rpc_method_handler(lambda _message, _context: answer)


def main() -> None:
    """Serve until killed."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=[_Methods()], xds=True)
    server.add_secure_port(sys.argv[1], grpc.xds_server_credentials(grpc.insecure_server_credentials()))
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
