"""A control plane with N routes, a real Envoy that has them all, and a backend: what most benches run on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.probing import Client, wait_for
from tests.bench.processes import ControlPlane, Envoy
from tests.bench.specs import LABELS, Shape, Specs
from tests.support.ports import free_port

_BACKEND = """\
static_resources:
  listeners:
    - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: backend
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {says}}}}}}}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"""


def backend(port: int, folder: Path, says: str = "app") -> Envoy:
    """A backend that answers 200 and this at once, and costs little: Envoy again."""
    return Envoy(_BACKEND.format(port=port, says=says), folder, f"backend-{says}")


@dataclass(frozen=True, slots=True)
class Fleet:
    """All of it, running."""

    specs: Specs
    control_plane: ControlPlane
    envoy: Envoy
    port: int

    def edited(self) -> range:
        """The routes that may be edited: those that answer directly."""
        return range(0, self.specs.count, 2)

    def watched(self) -> list[tuple[str, str]]:
        """Host and path of routes that nobody edits, spread over all of them."""
        indexes = range(1, self.specs.count, 2)
        return [(self.specs.host(index), self.specs.path(index)) for index in indexes[:: max(1, len(indexes) // 200)]]


@contextmanager
def fleet(shape: Shape, count: int, folder: Path) -> Iterator[Fleet]:
    """Start everything, and wait until Envoy answers by the last route."""
    shutil.rmtree(folder, ignore_errors=True)
    listener_port, backend_port = free_port(), free_port()
    specs = Specs(folder / "specs", shape, count, listener_port, backend_port)
    specs.write()
    with backend(backend_port, folder), ControlPlane(specs.folder, folder) as control_plane:
        control_plane.ready()
        with Envoy.of(control_plane, LABELS, folder) as envoy:
            client = Client(listener_port)
            for index in (0, count // 4 * 2 + 1, count - 1):
                deadline = time.monotonic() + 60
                while client.ask(specs.host(index), specs.path(index)).status != 200:
                    envoy.check()
                    control_plane.check()
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"Envoy does not answer by route {index}")
                    time.sleep(0.02)
            client.close()
            yield Fleet(specs, control_plane, envoy, listener_port)


def settled(fleet: Fleet, index: int) -> None:
    """Wait until the last edit of a route, whose body was `settled`, is answered."""
    client = Client(fleet.port)
    wait_for(client, fleet.specs.host(index), fleet.specs.path(index), lambda answer: answer.body == b"settled")
    client.close()
