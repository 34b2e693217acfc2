"""The composition root: the only place that knows sources, compiler, snapshots, xDS, state and admin together."""
