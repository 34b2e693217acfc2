"""What is peculiar to virtual hosts that a client discovers on demand (VHDS).

Called by the session. https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/vhds
"""

from __future__ import annotations

from collections.abc import Container

from controlplane.snapshot.store import View
from controlplane.xds.progress import Progress
from controlplane.xds.types import VIRTUAL_HOST


def route_configuration(name: str) -> str:
    """The route configuration that a virtual host belongs to: a host holds no slash, a route configuration may."""
    return name.rpartition("/")[0]


def introduce(hosts: Progress, routes: Progress | None, view: View) -> None:
    """Give the client a host of each route configuration that it subscribes to, or of all, of which it has none yet.

    Envoy subscribes without a name first, and a listener is not ready before a host of its route configuration came.
    https://github.com/envoyproxy/envoy/issues/23095
    """
    has = {route_configuration(name) for name in hosts.subscription.names}
    first: dict[str, str] = {}
    for name in view.names(VIRTUAL_HOST):
        of = route_configuration(name)
        if of not in has and (routes is None or routes.subscription.covers(of)):
            first[of] = min(name, first.get(of, name))
    names = frozenset(first.values())
    hosts.subscription.add(names, view)
    hosts.ask(names)


def sent(hosts: Progress, routes: Progress, view: View, configurations: Container[str]) -> None:
    """These route configurations were sent: a client may have cleared their tables, and needs their hosts again."""
    hosts.ask(frozenset(name for name in hosts.subscription.names if route_configuration(name) in configurations))
    introduce(hosts, routes, view)
