"""A server of DNS that takes its time, and an Envoy's bootstrap that asks it."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Any, Self

_CONFIG = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"


class Names:
    """Every name is 127.0.0.1, `seconds` after it was asked for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="names")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def resolver(self) -> dict[str, Any]:
        """For `typed_dns_resolver_config` of a bootstrap."""
        address, port = self._socket.getsockname()
        servers = [{"socket_address": {"address": address, "port_value": port}}]
        config = {"@type": _CONFIG, "resolvers": servers, "dns_resolver_options": {"no_default_search_domain": True}}
        return {"name": "envoy.network.dns_resolver.cares", "typed_config": config}

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(2000)
            if not question:
                return
            timer = threading.Timer(self._seconds, self._answer, (question, asker))
            timer.daemon = True
            timer.start()

    def _answer(self, question: bytes, asker: tuple[str, int]) -> None:
        end = question.index(0, 12) + 5  # the name, its type and class
        (kind,) = struct.unpack(">H", question[end - 4 : end - 2])
        found = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.1") if kind == 1 else b""
        head = question[:2] + b"\x81\x80\x00\x01" + struct.pack(">HI", bool(found), 0)
        if self._socket.fileno() >= 0:
            self._socket.sendto(head + question[12:end] + found, asker)
