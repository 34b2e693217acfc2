"""What was in force before a restart, while sources have not said whether it still is."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from controlplane.app.intake import Intake
from controlplane.app.lane import EndpointLane
from controlplane.app.loop import CommitLoop, Edit
from controlplane.app.problems import Problems
from controlplane.app.services import Services
from controlplane.app.source_status import SourceStatus
from controlplane.app.sources import may_declare, unknown_at_start
from controlplane.compile.compiler import Compiler
from controlplane.compile.endpoints import Endpoints, EndpointTables
from controlplane.config import Configuration
from controlplane.model.endpoint import Service, ServicePort
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.base import SpecObject
from controlplane.sources.belief import restored
from controlplane.sources.declared import Declared
from controlplane.sources.kubernetes.specs import Documents
from controlplane.spec.codes import Code
from controlplane.spec.rows import Kind
from tests.sources.rig import Remembering

CLUSTER = "kubernetes/eu"
WEB = ServiceRef(CLUSTER, "shop", "web")
EDGE, OTHER = ObjectRef(CLUSTER, "GatewaySpec", "shop", "edge"), ObjectRef("files", "GatewaySpec", "platform", "other")


def text(ref: ObjectRef, port: int = 80) -> str:
    """A gateway with a backend of the cluster."""
    member = {"kubernetes": {"cluster": "eu", "service": "shop/web", "port": 80}}
    spec = {
        "fleet": {"selector": {"matchLabels": {"role": ref.name}}},
        "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}],
        "backends": [{"name": "b", "members": [member]}],
    }
    metadata = {"name": ref.name, "namespace": ref.namespace}
    return json.dumps({"apiVersion": "gatewayspec.dev/v1alpha1", "kind": ref.kind, "metadata": metadata, "spec": spec})


def spec(ref: ObjectRef, port: int = 80) -> SpecObject:
    found = restored(ref, text(ref, port))
    assert found is not None
    return found


class Cluster:
    """What is asked of the services of a source."""

    name = CLUSTER
    held = 0

    def __init__(self) -> None:
        self.caught_up = True
        self.wanted: set[ServiceRef] = set()

    def want(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        self.wanted |= set(services)

    def forget(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        self.wanted -= set(services)

    def confirm(self, services: Collection[ServiceRef]) -> None:
        raise AssertionError


class Restarted:
    """An intake that was given what the previous process left, and the compiler behind it. `kept` is what is on disk."""

    def __init__(
        self,
        *before: ObjectRef,
        waited_for: Iterable[str] | None = None,
        secrets: Mapping[SecretRef, Secret] = MappingProxyType({}),
        objects_before: Mapping[ObjectRef, str] = MappingProxyType({}),
        **more: Any,
    ) -> None:
        self.kept: dict[Hashable, object] = {ref: text(ref) for ref in before} | {WEB: "endpoints"} | {**secrets}
        self.edits: dict[Hashable, Edit] = {}
        self.committed = False
        self.cluster = Cluster()
        self.compiler = Compiler(endpoints=Endpoints(EndpointTables(None)))
        lane = EndpointLane(self.compiler.endpoints, lambda *_: None, quiet=0.0, longest=0.0)
        self.services = Services(lane, [self.cluster], external=lambda *_: None, keep=self._keep, say=lambda *_: None)
        self.intake = Intake(
            {name: SourceStatus(name, 0.0, 0.0) for name in ("files", CLUSTER)},
            keep=lambda kept: (
                self._keep(kept.ref, kept.text) if isinstance(kept, SpecObject) else self._keep(kept, None)
            ),
            keep_secret=self._keep,
            services=self.services,
            register=Problems(),
            waited_for=waited_for,
            objects_before=objects_before or {ref: text(ref) for ref in before},
            secrets_before=secrets,
            **more,
        )
        self.intake.attach(cast(CommitLoop, self))
        self.services.restore({WEB: Service(ports=(ServicePort("", 80),))})

    def _keep(self, ref: Hashable, what: object) -> None:
        if what is None:
            self.kept.pop(ref, None)
        else:
            self.kept[ref] = what

    def edit(self, key: Hashable, edit: Edit) -> None:
        self.edits[key] = edit

    def hold(self, until: float) -> None: ...

    def release(self) -> None: ...

    def flush(self, event_time: float) -> None:
        edits, self.edits = self.edits, {}
        self._do(edits.values())
        self.compiler.commit_now()
        self.committed = True
        if all(status.answered for status in self.intake.sources.values()):
            self.services.settle()
        self.intake.forget_secrets(self.compiler.uses_secret)

    def _do(self, edits: Iterable[Edit]) -> None:
        for edit in edits:
            for _ in edit(self.compiler) or ():
                pass

    def succeeds(self, ref: ObjectRef) -> bool:
        """Whether what was in force of an object before is compiled before what is now."""
        self._do(self.edits.values())
        return ref in self.compiler.successors

    def say(self, *what: Callable[[Intake], object]) -> None:
        """What sources say in one batch."""
        for one in what:
            one(self.intake)
        self.intake.flush(0.0)

    @property
    def secrets(self) -> set[Hashable]:
        """On disk."""
        return {ref for ref in self.kept if isinstance(ref, SecretRef)}

    def files_are_read(self) -> None:
        self.say(lambda intake: intake.put(spec(OTHER)), lambda intake: intake.synced("files"))

    @property
    def gateways(self) -> set[str]:
        return set(self.compiler.tables.gateways.rows)

    def port(self) -> int:
        """Of the gateway of the cluster."""
        (row,) = (row for (kind, _), row in (self.compiler.declared.rows(EDGE) or {}).items() if kind is Kind.LISTENER)
        return int(cast(Any, row).part.port)


def fails(intake: Intake) -> None:
    intake.failed(CLUSTER, "endpointslices: Denied")


def synced(intake: Intake) -> None:
    intake.synced(CLUSTER)


HOWS = ["failed", "silent", "not waited for"]


def started(how: str, *before: ObjectRef) -> Restarted:
    """The files have been read; of the cluster, nothing was heard but perhaps a failure, and it is served."""
    plane = Restarted(*before, waited_for=["files"] if how == "not waited for" else None)
    if how == "failed":
        plane.say(fails)
    assert not plane.committed
    plane.files_are_read()
    if how == "silent":
        assert not plane.committed
        plane.intake.release(0.0)
    return plane


@pytest.mark.parametrize("how", HOWS)
def test_what_a_source_has_not_spoken_of_is_in_force_as_it_was(how: str) -> None:
    """A start that is served must not take routes away that nobody removed, and nothing of them leaves the disk."""
    plane = started(how, EDGE)
    assert plane.gateways == {"platform/other", "shop/edge"}
    assert plane.kept.keys() == {EDGE, OTHER, WEB}
    assert plane.cluster.wanted == {WEB}
    plane.say(synced)
    assert plane.gateways == {"platform/other"}
    assert plane.kept.keys() == {OTHER, WEB}


@pytest.mark.parametrize("how", HOWS)
def test_what_a_source_says_of_it_counts(how: str) -> None:
    plane = started(how, EDGE)
    assert plane.port() == 80
    plane.say(lambda intake: intake.put(spec(EDGE, 81)))
    assert plane.port() == 81
    plane.say(synced)
    assert plane.gateways == {"platform/other", "shop/edge"}
    plane.say(lambda intake: intake.remove(EDGE, sure=True))
    assert plane.gateways == {"platform/other"}


def test_endpoints_outlive_a_failure_though_nothing_but_the_failing_source_names_them() -> None:
    plane = Restarted(EDGE)
    plane.say(lambda intake: intake.synced("files"))
    plane.say(fails)
    assert plane.gateways == {"shop/edge"}
    assert plane.kept.keys() == {EDGE, WEB}


def test_a_failure_is_no_reason_not_to_wait_for_what_can_be_read() -> None:
    """Else a new proxy would get routes without endpoints because of one kind that is refused."""
    plane = Restarted(EDGE)
    plane.cluster.caught_up = False
    plane.say(fails)
    plane.files_are_read()
    assert not plane.committed
    plane.cluster.caught_up = True
    plane.say()
    assert plane.gateways == {"platform/other", "shop/edge"}


def test_a_start_waits_for_a_source_that_failed_when_nothing_is_remembered_of_it() -> None:
    """A new replica, and a cluster that refuses connections for a moment: its gateways must not be taken from proxies."""
    plane = Restarted()
    plane.intake.sources[CLUSTER].remembered = False
    plane.say(fails)
    plane.files_are_read()
    assert plane.intake.missing() == [CLUSTER]
    assert "not all that it declares is known" in (plane.intake.sources[CLUSTER].trouble or "")
    plane.say(lambda intake: intake.put(spec(EDGE)))
    assert plane.intake.missing() == [CLUSTER], "gateways of one kind are known, and not the routes of another"
    plane.say(lambda intake: intake.failed(CLUSTER, "secrets: Denied", specs=False))
    assert plane.intake.missing() == [], "all that it declares has been read, though other things cannot be"
    plane.say(fails)
    assert plane.intake.missing() == []
    plane = Restarted(EDGE)
    plane.say(fails)
    plane.files_are_read()
    assert plane.intake.missing() == [], "what it said is served"


def test_what_is_unknown_at_the_start_has_specs_and_was_never_read() -> None:
    sources: dict[str, Any] = {
        "files": [{"path": "specs"}],
        "kubernetes": [{"name": "eu", "specs": True}, {"name": "us", "specs": True}, {"name": "endpoints"}],
        "consul": [{"name": "dc", "address": "http://127.0.0.1:1", "specs": "gateways"}],
    }
    configuration = Configuration.model_validate({"sources": sources})

    def unknown(texts: Collection[ObjectRef], seen: Collection[str], *, whole: bool = True) -> set[str]:
        memory: Any = SimpleNamespace(texts=dict.fromkeys(texts, ""), seen=dict.fromkeys(seen, 0.0), whole=whole)
        return set(unknown_at_start(configuration, memory))

    assert unknown((), ()) == {"files", "kubernetes/eu", "kubernetes/us", "consul/dc"}
    assert unknown((EDGE,), ("files", "consul/dc")) == {"kubernetes/us"}
    assert unknown((EDGE,), ("files", "consul/dc"), whole=False) == unknown((), ()), "any row may be missing"


def test_others_make_the_word_of_a_silent_source_no_younger() -> None:
    plane = Restarted(EDGE, clock=lambda: 100.0)
    plane.files_are_read()
    assert (plane.intake.sources["files"].spoke, plane.intake.sources[CLUSTER].spoke) == (100.0, 0.0)


def test_the_word_of_one_source_makes_that_of_another_no_younger() -> None:
    now = 100.0
    plane = Restarted(clock=lambda: now)
    plane.files_are_read()
    plane.say(lambda intake: intake.synced(CLUSTER))
    now = 200.0
    plane.say(lambda intake: intake.put(spec(EDGE)))
    assert (plane.intake.sources["files"].spoke, plane.intake.sources[EDGE.source].spoke) == (100.0, 200.0)


def test_what_this_version_cannot_use_of_the_last_good_state_is_said_until_its_source_speaks() -> None:
    """After a downgrade, with the source down, less is served than before: nobody may have to find out by requests."""
    plane = Restarted(EDGE, OTHER)
    plane.intake._texts[EDGE] = text(EDGE).replace("selector", "newer")
    plane.say(fails)
    plane.files_are_read()
    plane.say(fails)
    assert plane.gateways == {"platform/other"}
    (said,) = [one for one in plane.intake.register.of(EDGE.subject) if one.code == Code.STORED_UNUSABLE]
    assert "kubernetes/eu" in said.help
    assert plane.intake.missing() == [CLUSTER], "the start waits for it, until the deadline"
    plane.say(lambda intake: intake.put(spec(EDGE)))
    assert plane.gateways == {"platform/other", "shop/edge"}
    assert plane.intake.register.of(EDGE.subject) == ()


def test_something_to_serve_is_what_was_in_force_before_too() -> None:
    assert Restarted(EDGE).intake.has_objects
    assert not Restarted().intake.has_objects
    plane = Restarted(EDGE)
    plane.say(synced)
    assert not plane.intake.has_objects


def test_what_no_source_of_the_configuration_declares_any_more_does_not_come_back() -> None:
    sources: dict[str, Any] = {"files": [{"path": "specs"}], "kubernetes": [{"name": "eu", "specs": True}]}

    def may(ref: ObjectRef) -> bool:
        return may_declare(Configuration.model_validate({"sources": sources}), ref)

    assert may(EDGE)
    assert may(OTHER)
    sources["kubernetes"][0]["namespaces"] = ["elsewhere"]
    assert not may(EDGE)
    sources["kubernetes"][0] = {"name": "eu"}
    assert not may(EDGE)
    plane = Restarted(EDGE, may_declare=may)
    plane.say(fails)
    plane.files_are_read()
    assert plane.gateways == {"platform/other"}
    assert not Restarted(EDGE, may_declare=may).intake.has_objects


# -- what was deleted in the meantime ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_what_a_source_says_is_gone_is_gone_though_it_cannot_say_everything(how: str) -> None:
    """It would be in force again at the next start."""
    plane = started(how, EDGE)
    plane.say(lambda intake: intake.remove(EDGE), fails)
    assert plane.gateways == {"platform/other"}
    assert plane.kept.keys() == {OTHER, WEB}


@pytest.mark.parametrize("end", [fails, synced], ids=["failed", "synced"])
def test_removals_since_the_last_process_are_judged_together(end: Callable[[Intake], None]) -> None:
    """One kind after the other would each be few."""
    refs = [EDGE._replace(name=f"g{number}") for number in range(4)]
    plane = Restarted(*refs)
    plane.files_are_read()
    for ref in refs:
        plane.say(partial(Intake.remove, ref=ref))
    assert not plane.committed
    plane.say(end)
    assert plane.gateways == {"platform/other", *(ref.full_name for ref in refs)}
    assert plane.intake.held(CLUSTER) == 4
    assert plane.kept.keys() == {OTHER, WEB, *refs}
    plane.say(synced)
    assert plane.intake.held(CLUSTER) == 4


def test_a_custom_resource_that_two_lists_lack_is_gone_whether_or_not_it_was_ever_said() -> None:
    sink = Remembering()
    documents = Documents(CLUSTER, "GatewaySpec", None, {EDGE: text(EDGE)}, sink)
    for calls in ([], ["remove edge"], ["remove edge"]):
        documents.begin()
        documents.end(1, rewound=False)
        assert sink.calls == calls


def test_a_document_that_no_file_declares_is_gone_whether_or_not_it_was_ever_said() -> None:
    sink = Remembering()
    declared = Declared("files", [OTHER])
    assert declared.settle(sink, doubt=False)
    assert not declared.settle(sink, doubt=False)
    assert sink.calls == ["remove other"]


def test_a_restored_custom_resource_claims_what_it_claimed() -> None:
    """Else its hosts would be another's for as long as the cluster is away."""
    sink = Remembering()
    documents = Documents(CLUSTER, "GatewaySpec", None, {}, sink)
    thing = json.loads(text(EDGE))
    thing["metadata"] |= {"uid": "u", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    documents.changed(msgspec.Raw(json.dumps(thing).encode()))
    now = sink.objects[EDGE]
    before = restored(EDGE, now.text)
    assert before is not None
    assert before.rows == now.rows


@pytest.mark.parametrize("ports", [(81,), (81, 82), (80, 81), (81, 80)])
def test_what_changes_more_than_once_before_the_first_commit_follows_on_what_was_in_force(
    ports: tuple[int, ...],
) -> None:
    """Proxies have what followed from the text of before, whatever was between."""
    plane = Restarted(EDGE)
    for port in ports:
        plane.intake.put(spec(EDGE, port))
    assert plane.succeeds(EDGE) == (ports[-1] != 80)


@pytest.mark.parametrize(
    ("port", "stages"),
    [(81, [80, 81]), (82, [80, 81, 82]), (80, [80, 81, 80])],
    ids=["the same", "another", "taken back"],
)
def test_what_was_good_before_a_doubted_edit_comes_first_of_all(port: int, stages: list[int]) -> None:
    """Some proxies may have the one, some the other: what each of them still uses is kept."""
    plane = Restarted(EDGE, objects_before={EDGE: text(EDGE, 81)}, objects_former={EDGE: text(EDGE, 80)})
    plane.intake.put(spec(EDGE, port))
    assert plane.succeeds(EDGE)
    compiled = [plane.compiler.declared.rows(EDGE), *plane.compiler.successors[EDGE]]
    assert compiled == [spec(EDGE, each).rows for each in stages]


def test_what_goes_and_comes_before_the_first_commit_is_as_it_was() -> None:
    plane = Restarted(EDGE)
    plane.say(lambda intake: intake.remove(EDGE, sure=True), lambda intake: intake.put(spec(EDGE, 81)))
    assert plane.succeeds(EDGE)


def test_a_document_is_kept_when_a_commit_takes_it_and_not_before() -> None:
    """Else the next process would not know what proxies had, and leave them nothing of it."""
    plane = Restarted(EDGE)
    plane.files_are_read()
    before = plane.kept[EDGE]
    plane.intake.put(spec(EDGE, 81))
    assert plane.kept[EDGE] == before
    plane.intake.put(spec(EDGE, 82))
    plane.intake.flush(0.0)
    assert plane.kept[EDGE] == before, "what the other source has in force is not known yet: nothing is committed"
    plane.say(synced)
    assert plane.kept[EDGE] == text(EDGE, 82)
    plane.intake.remove(EDGE, sure=True)
    assert EDGE in plane.kept
    plane.intake.flush(0.0)
    assert EDGE not in plane.kept


NAMED, UNNAMED = SecretRef(CLUSTER, "shop", "named"), SecretRef(CLUSTER, "shop", "unnamed")
OF_FILES, OF_OTHERS = SecretRef("files", "shop", "unnamed"), SecretRef("kubernetes/us", "shop", "named")
PAIR = Secret.of({"tls.crt": b"certificate", "tls.key": b"key"})


def secured(secret: str | None, ref: ObjectRef = EDGE) -> SpecObject:
    """A gateway, with a certificate or without one."""
    document = json.loads(text(ref))
    if secret is not None:
        certificate = {"secretRef": secret}
        listener = {"name": "https", "port": 443, "protocol": "HTTPS"}
        document["spec"]["listeners"].append(
            listener | {"tls": [{"hosts": ["a.example.com"], "certificate": certificate}]}
        )
    found = restored(ref, json.dumps(document))
    assert found is not None
    return found


def of_files(secret: str | None) -> SpecObject:
    return secured(secret, ObjectRef("files", "GatewaySpec", "shop", "other"))


def test_keys_that_no_document_names_leave_the_disk() -> None:
    """Those of files stay: they are all there, whether something names them or not."""
    plane = Restarted(EDGE, secrets=dict.fromkeys((NAMED, UNNAMED, OF_FILES, OF_OTHERS), PAIR))
    plane.say(lambda intake: intake.put(secured("named")))
    plane.files_are_read()
    assert plane.secrets == {NAMED, UNNAMED, OF_FILES, OF_OTHERS}  # the cluster may know a document that names them
    plane.say(synced)
    assert plane.secrets == {NAMED, OF_FILES}
    plane.say(lambda intake: intake.put(secured(None)))
    assert plane.secrets == {OF_FILES}
    plane.say(lambda intake: intake.put(secured("named")), lambda intake: intake.put_secret(NAMED, PAIR))
    assert plane.secrets == {NAMED, OF_FILES}


def test_a_secret_of_files_stays_though_no_document_names_it() -> None:
    """Its source says what changes, and not again what is named again."""
    plane = Restarted()
    plane.files_are_read()
    plane.say(lambda intake: intake.put_secret(OF_FILES, PAIR), synced)
    plane.say(lambda intake: intake.put(of_files("unnamed")))
    plane.say(lambda intake: intake.put(of_files(None)))
    plane.say(lambda intake: intake.put(of_files("unnamed")))
    assert OF_FILES in plane.secrets
    assert OF_FILES in plane.compiler.tables.secrets.rows
