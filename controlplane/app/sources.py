"""Which sources a configuration asks for. The composition root calls it; nothing here runs yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controlplane.app.memory import Memory
from controlplane.config import Configuration
from controlplane.errors import ConfigurationError, nearest
from controlplane.names import FILES, ObjectRef, consul_source, kubernetes_source
from controlplane.sources.files import FileSource
from controlplane.sources.secrets import SecretSource


def make_sources(configuration: Configuration, memory: Memory) -> list[Any]:
    """Every source. Raises ConfigurationError when there is nothing to serve."""
    files, clusters = configuration.sources.files, configuration.sources.kubernetes
    datacenters, hold = configuration.sources.consul, configuration.guards.hold.total_seconds()
    if not configuration.sources.have_specs:
        raise ConfigurationError("nothing to serve: no source has specs")
    if len(files) > 1:
        raise ConfigurationError("one folder of specs is served for now; put the others under it, as links")
    of_files = {ref: text for ref, text in memory.texts.items() if ref.source == "files"}
    found: list[Any] = [FileSource(folder.path, last_good=of_files) for folder in files]
    if clusters:
        from controlplane.app.clusters import kubernetes_sources

        found += kubernetes_sources(clusters, memory, hold)
    if datacenters:
        from controlplane.app.datacenters import consul_sources

        found += consul_sources(datacenters, memory, hold)
    if configuration.secrets is not None:
        in_folder = {ref: secret for ref, secret in memory.secrets.items() if ref.source == FILES}
        found.append(SecretSource(configuration.secrets.path, last_good=in_folder))
    return found


def discoveries(sources: Iterable[Any]) -> list[Any]:
    """Those that deliver what is asked of them."""
    return [source for source in sources if hasattr(source, "want")]


def may_declare(configuration: Configuration, ref: ObjectRef) -> bool:
    """Whether a source of the configuration could say this object, which one said before the process started."""
    sources = configuration.sources
    return (
        (ref.source == "files" and bool(sources.files))
        or any(
            ref.source == kubernetes_source(cluster.name)
            and cluster.specs
            and (cluster.namespaces == "all" or ref.namespace in cluster.namespaces)
            for cluster in sources.kubernetes
        )
        or any(ref.source == consul_source(one.name) and one.specs is not None for one in sources.consul)
    )


def unknown_at_start(configuration: Configuration, memory: Memory) -> frozenset[str]:
    """The sources with specs that no process before this one has read, or of which some is damaged: what they declare, nobody
    here knows.
    """
    sources = configuration.sources
    declaring = {"files"} if sources.files else set()
    declaring |= {kubernetes_source(cluster.name) for cluster in sources.kubernetes if cluster.specs}
    declaring |= {consul_source(one.name) for one in sources.consul if one.specs is not None}
    known = {*memory.seen, *(ref.source for ref in memory.texts)} if memory.whole else set()
    return frozenset(declaring - known)


def waited_for(configuration: Configuration, names: Iterable[str]) -> frozenset[str]:
    """The sources that the start waits for. Raises ConfigurationError for a name that is none."""
    known, wanted = frozenset(names), configuration.startup.wait_for
    if wanted == "all":
        return known
    if wanted == "none":
        return frozenset()
    if unknown := sorted(set(wanted) - known):
        raise ConfigurationError(f'startup.waitFor: no source "{unknown[0]}" ({nearest(unknown[0], known)})')
    return frozenset(wanted)
