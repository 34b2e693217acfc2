"""Listening: the admin API, metrics and xDS, in this order; and why nobody can listen on an address, in words."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import suppress
from typing import Any

import structlog

from controlplane.admin.server import Look, application, listen
from controlplane.app.addresses import Addresses
from controlplane.app.trust import Trust
from controlplane.config import Configuration, Endpoint
from controlplane.errors import ConfigurationError
from controlplane.xds.server import XdsServer, dynamic_credentials

log = structlog.get_logger(__name__)


class Listening:
    """Where this process can be reached."""

    def __init__(self, configuration: Configuration, look: Look, server: XdsServer, trust: Trust | None) -> None:
        """Nothing listens yet."""
        self._configuration = configuration
        self._look = look
        self._server = server
        self._trust = trust
        self._runners: list[Any] = []

    async def start(self) -> Addresses:
        """Listen everywhere. Raises ConfigurationError, and may listen at some places then."""
        _allow_descriptors()
        admin, metrics = self._configuration.admin.listen, self._configuration.metrics.listen
        admin_port = await self._listen_http("the admin API", admin)
        if metrics is not None:
            await self._listen_http("metrics", metrics, public=True)
        xds = self._configuration.xds
        credentials = None if self._trust is None else dynamic_credentials(self._trust.server_keys)
        try:
            port = await self._server.start(str(xds.listen), credentials)
        except RuntimeError:
            raise ConfigurationError(f"xDS cannot listen on {xds.listen}: {await obstacle(xds.listen)}") from None
        addresses = Addresses(str(xds.listen._replace(port=port)), str(admin._replace(port=admin_port)))
        log.info("listening", xds=addresses.xds, admin=f"http://{addresses.admin}", mtls=not xds.insecure)
        return addresses

    async def stop_http(self) -> None:
        """End what only looks on; xDS is ended by its server, in its own time."""
        for runner in self._runners:
            await runner.cleanup()

    async def _listen_http(self, what: str, address: Endpoint, *, public: bool = False) -> int:
        try:
            runner, port = await listen(application(self._look, public=public), address.host, address.port)
        except OSError as error:
            raise ConfigurationError(f"{what} cannot listen on {address}: {reason(error)}") from None
        self._runners.append(runner)
        return port


def _allow_descriptors() -> None:
    """As many files and connections as this process may have: shells and container runtimes begin with 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems name a bound that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
