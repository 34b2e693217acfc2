"""What is in force follows from the files alone, whatever the order in which they were read."""

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.errors import Diagnostic
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.sources.base import SpecObject
from controlplane.sources.declared import Content, Declared

FILES = ("a.yaml", "b.yaml", "c.yaml")
REFS = [ObjectRef("files", "RouteSpec", "shop", name) for name in "xyz"]


class Recorder:
    def __init__(self) -> None:
        self.objects: dict[ObjectRef, SpecObject] = {}
        self.said: dict[str, tuple[Diagnostic, ...]] = {}

    def put(self, spec: SpecObject) -> None:
        assert self.objects.get(spec.ref) is not spec
        self.objects[spec.ref] = spec

    def remove(self, ref: ObjectRef, *, sure: bool = False) -> None:
        del self.objects[ref]

    def put_secret(self, ref: SecretRef, secret: Secret) -> None:
        raise NotImplementedError

    def remove_secret(self, ref: SecretRef) -> None:
        raise NotImplementedError

    def problems(self, source: str, subject: str, diagnostics: object) -> None:
        self.said[subject] = tuple(diagnostics)  # type: ignore[arg-type]

    def synced(self, source: str) -> None:
        raise NotImplementedError

    def failed(
        self,
        source: str,
        reason: str,
        *,
        endpoints: bool = True,
        namespaces: frozenset[str] = frozenset(),
        specs: bool = True,
    ) -> None:
        raise NotImplementedError

    def flush(self, event_time: float) -> None:
        raise NotImplementedError


def spec(ref: ObjectRef, file: str, version: int) -> SpecObject:
    return SpecObject(ref, {}, f"metadata: {{name: {ref.name}}} # {version}", file, 1)


CLEAN = st.dictionaries(st.sampled_from(REFS), st.integers(0, 3))
EDITS = st.lists(
    st.tuples(st.sampled_from(FILES), st.none() | st.tuples(CLEAN, st.sets(st.sampled_from(REFS)), st.booleans()))
)


@settings(deadline=None, max_examples=400)
@given(st.lists(EDITS, max_size=6), st.permutations(FILES))
def test_when_every_file_is_clean_only_what_they_declare_is_in_force(batches: list, order: list[str]) -> None:  # type: ignore[type-arg]
    sink = Recorder()
    declared = Declared("files")
    for batch in batches:
        for file, content in batch:
            if content is None:
                declared.update(file, None)
                continue
            versions, broken, doubt = content
            objects = {ref: spec(ref, file, version) for ref, version in versions.items()}
            before = dict(sink.objects)
            declared.update(file, Content(objects, frozenset(broken), "why" if doubt else ""))
        before = dict(sink.objects)
        declared.settle(sink, doubt=False)
        in_files = {ref for file in FILES if (known := declared.content(file)) for ref in known.objects}
        broken_now = {ref for file in FILES if (known := declared.content(file)) for ref in known.broken}
        assert in_files <= sink.objects.keys()
        assert before.keys() & broken_now <= sink.objects.keys()
        for ref in sink.objects.keys() - in_files:
            assert sink.objects[ref] is before[ref]
    final = {file: {ref: spec(ref, file, index) for ref in REFS[: index + 1]} for index, file in enumerate(FILES)}
    for file in order:
        declared.update(file, Content(final[file]))
    declared.settle(sink, doubt=False)
    assert {ref: one.file for ref, one in sink.objects.items()} == dict(zip(REFS, FILES, strict=True))
    assert {file for file, said in sink.said.items() if said} == {"b.yaml", "c.yaml"}
    for file in FILES:
        declared.update(file, None)
    declared.settle(sink, doubt=False)
    assert sink.objects == {}
    assert not any(sink.said.values())
