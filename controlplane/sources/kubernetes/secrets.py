"""The secrets that gateway specs of a cluster refer to, each watched by its name alone.

So the right to list all secrets of a cluster is never needed. Where it is granted for namespaces and there are many, one
watch for each namespace is cheaper (`secrets: namespaces`). Bytes of secrets never appear in a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from controlplane.model.secret import Secret
from controlplane.names import SecretRef
from controlplane.sources.base import Sink
from controlplane.sources.kubernetes import objects
from controlplane.sources.kubernetes.watches import Watches, collection, named

_decoder = msgspec.json.Decoder(objects.Secret)


class Secrets:
    """Secrets of one namespace, or one of them: those of `wanted` go to the sink."""

    def __init__(self, source: str, namespace: str, sink: Sink) -> None:
        self.wanted: set[str] = set()
        self.ask_again: Callable[[], None] = lambda: None
        """Called when a second list is to say whether a secret is gone."""
        self.said: dict[str, Secret | None] = {}
        self._source = source
        self._namespace = namespace
        self._sink = sink
        self._covered: set[str] = set()
        self._listed: dict[str, Secret] = {}
        self._missing: set[str] = set()
        self._dirty = False

    @property
    def caught_up(self) -> bool:
        """Whether every wanted one has been pushed, or said to be absent."""
        return self.said.keys() >= self.wanted

    def want(self, names: set[str]) -> bool:
        """Refer to these and to no others; whether there are new ones."""
        new = names - self.wanted
        self.wanted = set(names)
        self.said = {name: secret for name, secret in self.said.items() if name in names}
        return bool(new)

    def forget(self, name: str) -> None:
        """Nobody refers to this any more: when it is wanted again it is new."""
        self.wanted.discard(name)
        self.said.pop(name, None)

    def begin(self) -> None:
        """A list begins."""
        self._covered = set(self.wanted)
        self._listed = {}

    def item(self, data: msgspec.Raw) -> None:
        """A secret of the list."""
        secret = _decoder.decode(data)
        if secret.metadata.name in self._covered:
            self._listed[secret.metadata.name] = Secret.of(secret.data or {})

    def end(self, version: int, *, rewound: bool) -> None:
        """The list is complete. One that was there before is gone when the next list lacks it too."""
        missing = set()
        for name in self._covered & self.wanted:
            now = self._listed.get(name)
            if now is None and self.said.get(name) is not None and name not in self._missing:
                missing.add(name)
            else:
                self._say(name, now)
        self._missing = missing
        self._covered, self._listed = set(), {}
        if missing:
            self.ask_again()

    def changed(self, data: msgspec.Raw) -> None:
        """A secret as it is now."""
        secret = _decoder.decode(data)
        if secret.metadata.name in self.wanted:
            self._say(secret.metadata.name, Secret.of(secret.data or {}))

    def deleted(self, data: msgspec.Raw) -> None:
        """A secret is gone."""
        secret = _decoder.decode(data)
        if secret.metadata.name in self.wanted:
            self._say(secret.metadata.name, None)

    def flush(self, event_time: float) -> None:
        """A batch ends."""
        if self._dirty:
            self._dirty = False
            self._sink.flush(event_time)

    def _say(self, name: str, secret: Secret | None) -> None:
        self._missing.discard(name)
        if name in self.said and self.said[name] == secret:
            return
        self.said[name] = secret
        self._dirty = True
        ref = SecretRef(self._source, self._namespace, name)
        if secret is None:
            self._sink.remove_secret(ref)
        else:
            self._sink.put_secret(ref, secret)


class SecretWatch:
    """The mirrors of all secrets that are referred to: one for each secret, or one for each namespace."""

    def __init__(self, source: str, watches: Watches, sink: Sink, *, by_namespace: bool) -> None:
        self._source = source
        self._watches = watches
        self._sink = sink
        self._by_namespace = by_namespace
        self._mirrors: dict[str, Secrets] = {}

    @property
    def caught_up(self) -> bool:
        """Whether every secret that is referred to has been pushed or said to be absent, but for those that cannot be read."""
        return all(mirror.caught_up or self._watches.fails(name) for name, mirror in self._mirrors.items())

    def forget(self, namespace: str, name: str) -> None:
        """Nobody refers to this any more: at once, for what is wanted again in this very turn is pushed again."""
        if (mirror := self._mirrors.get(self._mirror(namespace, name))) is not None:
            mirror.forget(name)

    def _mirror(self, namespace: str, name: str) -> str:
        return named("secrets", namespace) if self._by_namespace else f"secret {namespace}/{name}"

    def want(self, wanted: Mapping[str, set[str]]) -> None:
        """Refer to these names by namespace and to no others."""
        goals = {
            self._mirror(namespace, secret): (namespace, names if self._by_namespace else {secret}, secret)
            for namespace, names in wanted.items()
            for secret in sorted(names)
        }
        for name in self._mirrors.keys() - goals.keys():
            del self._mirrors[name]
            self._watches.forget(name)
        for name, (namespace, names, secret) in goals.items():
            mirror = self._mirrors.get(name)
            if mirror is None:
                mirror = self._mirrors[name] = Secrets(self._source, namespace, self._sink)
                mirror.want(names)
                selector = "" if self._by_namespace else f"metadata.name={secret}"
                path = collection("/api/v1", namespace, "secrets")
                mirror.ask_again = self._watches.watch(name, path, mirror, selector=selector).list_again
            elif mirror.want(names):
                mirror.ask_again()
