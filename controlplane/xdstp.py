"""Structured resource names, `xdstp://authority/type/id?key=value`: when two are the same, and what a collection holds.

Called where names come in, by the store and by xDS; it knows nothing of what a name stands for. The rules are those of
https://github.com/cncf/xds/blob/main/proposals/TP1-xds-transport-next.md
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import quote, unquote

from controlplane.resources import Resource

_SCHEME = "xdstp://"
_ANY = "/*"
_MANY = 64
_SHORT = 512
"""Characters of a name whose spelling is remembered: who sends longer ones fills no memory with them."""
_SAFE = "-._~:/@!$'()*+,; |"
"""What stands for itself in a parameter; everything else is percent-encoded, whoever wrote it in whatever way."""


def canonical_names(names: frozenset[str]) -> frozenset[str]:
    """The names as they are compared: opaque ones byte for byte, structured ones in their canonical form."""
    return frozenset(map(canonical, names)) if _structured(names) else names


def parameters(names: frozenset[str]) -> list[str]:
    """The context parameters of the structured ones among these names, as they are written."""
    if not _structured(names):
        return []
    return [name.partition("?")[2] for name in names if name.startswith(_SCHEME) and "?" in name]


def canonical(name: str) -> str:
    """The one spelling of a structured name: its context parameters are a map, so that their order means nothing."""
    if not name.startswith(_SCHEME) or "?" not in name:
        return name
    return _remembered(name) if len(name) <= _SHORT else _spelled(name)


def _spelled(name: str) -> str:
    path, _, query = name.partition("?")
    query, mark, directives = query.partition("#")
    pairs = sorted(
        (unquote(key), unquote(value)) for key, _, value in (each.partition("=") for each in query.split("&"))
    )
    text = "&".join(f"{quote(key, safe=_SAFE)}={quote(value, safe=_SAFE)}" for key, value in pairs if key)
    return f"{path}{'?' if text else ''}{text}{mark}{directives}"


_remembered = lru_cache(maxsize=4096)(_spelled)


def other_names(resource: Resource) -> tuple[str, ...]:
    """By what else than its name a resource is asked for: its aliases, and the canonical form of its name."""
    if resource.name.startswith(_SCHEME) and (spelling := canonical(resource.name)) != resource.name:
        return (*resource.aliases, spelling)
    return resource.aliases


def collections(names: frozenset[str]) -> frozenset[str]:
    """Those of these canonical names that stand for a collection: their path ends in `/*`."""
    return _collections(names) if len(names) < _MANY else _collections_of_many(names)


def _collections(names: frozenset[str]) -> frozenset[str]:
    if not _structured(names):
        return frozenset()
    return frozenset(name for name in names if name.startswith(_SCHEME) and name.partition("?")[0].endswith(_ANY))


_collections_of_many = lru_cache(maxsize=16)(_collections)
"""A fleet asks for the same thousands."""


def collection_of(name: str) -> str | None:
    """The collection that this resource is in: one level, and with the same context parameters."""
    if not name.startswith(_SCHEME):
        return None
    return _remembered_parent(name) if len(name) <= _SHORT else _parent(name)


def _parent(name: str) -> str | None:
    path, mark, query = canonical(name).partition("?")
    parent, slash, last = path.rpartition("/")
    return f"{parent}{_ANY}{mark}{query}" if slash and last and last != "*" else None


_remembered_parent = lru_cache(maxsize=4096)(_parent)


def _structured(names: Collection[str]) -> bool:
    """Whether any may be a structured name: thousands of names are looked through many times as fast when joined."""
    return _SCHEME in "\0".join(names)
