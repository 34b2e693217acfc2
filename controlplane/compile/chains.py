"""Listeners of a spec as ways in: one per plain HTTP port, one per certificate of an HTTPS port."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.compile.rows import Chain
from controlplane.graph.engine import Read
from controlplane.names import ElementKey, SecretRef, group_of_chain, group_of_port
from controlplane.spec.listener import Listener, Protocol
from controlplane.spec.rows import Element


def chains_of_listener(_: Read, key: ElementKey, element: Element) -> Iterator[tuple[tuple[ElementKey, str], Chain]]:
    """The chains of one listener; tls entries that name the same secret are one chain."""
    listener = element.part
    assert isinstance(listener, Listener)
    if listener.protocol is Protocol.HTTP:
        group = group_of_port(listener.address, listener.port)
        yield (key, ""), Chain(element.gateway, key, group, listener.protocol, listener.port, ("*",), listener.redirect)
        return
    hosts: dict[str, set[str]] = {}
    for entry in listener.tls:
        hosts.setdefault(entry.identity, set()).update(entry.hosts)
    for identity, names in hosts.items():
        yield (
            (key, identity),
            Chain(
                element.gateway,
                key,
                group_of_chain(key, identity),
                listener.protocol,
                listener.port,
                tuple(sorted(names)),
                listener.redirect,
                SecretRef(key.object.source, key.object.namespace, identity),
            ),
        )
