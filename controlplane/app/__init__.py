"""The composition root: the only place that knows sources, compiler, snapshots, xDS, state and admin together."""

from controlplane.app.process import Addresses, serve

__all__ = ["Addresses", "serve"]
