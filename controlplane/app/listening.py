"""Why nobody can listen on an address, in words."""

from __future__ import annotations

import asyncio
import os
import socket

from controlplane.config import Endpoint


def reason(error: OSError) -> str:
    """What the system says; an unknown host name has no number of its own."""
    return (error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)) or str(error)


async def obstacle(address: Endpoint) -> str:
    """Why nobody can listen there: grpc does not say."""
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, address.host, address.port)
    except OSError as error:
        return reason(error)
    server.close()
    return "the address cannot be used"
