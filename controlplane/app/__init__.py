"""The composition root: the only place that knows sources, compiler, snapshots, xDS, state and admin together."""

from controlplane.app.addresses import Addresses
from controlplane.app.process import serve

__all__ = ["Addresses", "serve"]
