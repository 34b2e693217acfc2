"""Whether proxies are offered anything of the routes of a document: for its status.

Told from what is published, so that whatever keeps a route out of it counts: a grant, an older claim, an equal route.
"""

from __future__ import annotations

from controlplane.compile.hosts import shards_of_route
from controlplane.compile.pipeline import Tables
from controlplane.compile.provenance import has_route
from controlplane.compile.xds_types import SCOPED_ROUTE
from controlplane.filters.shard_lua.compile import FALLBACK
from controlplane.names import ElementKey, parts_of, scope_name
from controlplane.snapshot.store import Store
from controlplane.sources.base import SpecObject
from controlplane.spec.rows import Kind


def offers(tables: Tables, store: Store, spec: SpecObject) -> bool:
    """Whether a route of the object is published, also one that answers 503; True for an object that has none."""
    routes = [key for kind, key in spec.rows if kind is Kind.ROUTE]
    return not routes or any(_is_published(tables, store, key) for key in routes)


def _is_published(tables: Tables, store: Store, key: ElementKey) -> bool:
    route = tables.compiled_routes.rows.get(key)
    if route is None:
        return False
    view = store.view(parts_of((route.gateway,)))
    # Of a host with many floating matches the fallback has all routes.
    wanted = {
        one._replace(segment=segment) for one in shards_of_route(key, route) for segment in (one.segment, FALLBACK)
    }
    found = (view.get(SCOPED_ROUTE, scope_name(one.group, one.host, one.segment)) for one in sorted(wanted))
    return any(shard is not None and has_route(shard, key) for shard in found)
