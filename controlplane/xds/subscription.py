"""What one stream wants of one type: everything, some names, or both.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#how-the-client-specifies-what-resources-to-return
"""

from __future__ import annotations

from controlplane.xds.nameset import NameSet
from controlplane.xds.types import ResourceType


class Subscription:
    """The wildcard, the explicit names, or their union. Names are opaque and compared byte for byte."""

    __slots__ = ("_kind", "named_once", "names", "wildcard")

    def __init__(self, kind: ResourceType) -> None:
        self._kind = kind
        self.wildcard = False
        self.names = NameSet()
        self.named_once = False
        """Whether a name (or `*`) was ever given: from then on "no names" means nothing, not everything."""

    @property
    def enumerates(self) -> bool:
        """Whether the wildcard brings in names that were not asked for."""
        return self.wildcard and self._kind.enumerable

    def covers(self, name: str) -> bool:
        """Whether the stream wants to hear of this name."""
        return self.enumerates or name in self.names
