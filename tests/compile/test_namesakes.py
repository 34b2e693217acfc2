"""Objects of one name in several sources: one counts whatever came first, and the others cost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from random import Random
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import scoped_route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.compile.compiler import Compiler
from controlplane.compile.namesakes import Namesakes
from controlplane.compile.xds_types import CLUSTER, LISTENER, SCOPED_ROUTE, SECRET
from controlplane.model.secret import Secret
from controlplane.names import Family, GatewayName, ObjectRef, SecretRef
from controlplane.spec.gateway import KINDS
from controlplane.spec.rows import Row, RowKey, rows
from tests.compile import worlds
from tests.compile.lived import CERTIFICATES, VIEWS, Lived, add_views
from tests.support.certificates import Authority, authority

FILES, EU, US = "files", "kubernetes/eu", "kubernetes/us"
CLAIMS = {FILES: ("",), EU: ("2026-01-02T00:00:00Z/a", "2026-01-04T00:00:00Z/b"), US: ("2026-01-03T00:00:00Z/c",)}
"""What objects of each source say of their age; one that is made again is younger."""

Objects = dict[ObjectRef, tuple[worlds.Said, str]]


def split(ref: ObjectRef, said: worlds.Said, claim: str) -> Mapping[RowKey, Row]:
    return rows(ref, KINDS[ref.kind].model_validate(said), claim)


def winners(objects: Objects) -> list[ObjectRef]:
    """The first of each name, by age and then by source."""
    found: dict[tuple[str, ...], ObjectRef] = {}
    for ref in sorted(objects, key=lambda ref: (objects[ref][1], ref.source)):
        found.setdefault(ref[1:], ref)
    return list(found.values())


def told(lived: Lived) -> set[str]:
    """Of whom it is said that another one is in force."""
    return {one.subject for found in lived.issues.values() for one in found if one.code == "GW0226"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 14))
def test_what_is_compiled_is_what_the_winners_alone_give(seed: int, steps: int) -> None:
    """Also under a name that goes from one source to another, within a commit or over several."""
    random = Random(seed)
    lived = Lived()
    objects: Objects = {}
    for secret in CERTIFICATES.values():
        lived.compiler.put_secret(*secret)
    for _ in range(steps):
        for _ in range(random.choice((1, 1, 2, 4))):
            if objects and random.random() < 0.3:
                gone = random.choice(sorted(objects))
                del objects[gone]
                lived.compiler.remove(gone)
                continue
            source = random.choice((FILES, EU, US))
            if random.random() < 0.5:
                said = worlds.gateway(random, random.choice(worlds.GATEWAYS))
            else:
                said = worlds.route_spec(random, random.choice(sorted(worlds.SPECS)))
            ref = worlds.ref(said)._replace(source=source)
            objects[ref] = said, random.choice(CLAIMS[source])
            lived.compiler.put(ref, split(ref, *objects[ref]))
        add_views(lived.compiler, {ref: said for ref, (said, _) in objects.items()}, grpc=False)
        lived.commit()

        fresh = Lived()
        for secret in CERTIFICATES.values():
            fresh.compiler.put_secret(*secret)
        for ref in winners(objects):
            fresh.compiler.put(ref, split(ref, *objects[ref]))
        history, said = lived.compiler.tables, fresh.compiler.tables  # history is an input
        for before, now in (
            (history.kept_chains, said.kept_chains),
            (history.kept_limits, said.kept_limits),
            (history.kept_gateways, said.kept_gateways),
        ):
            for key, row in before.rows.items():
                said.graph.set(now, key, row)  # type: ignore[arg-type]  # the tables are alike
        add_views(fresh.compiler, {ref: said for ref, (said, _) in objects.items()}, grpc=False)
        fresh.commit()
        for view in VIEWS:
            assert lived.compiler.resources(view) == fresh.compiler.resources(view)
        assert lived.published == fresh.published
        assert told(lived) == {ref.subject for ref in objects} - {ref.subject for ref in winners(objects)}
        assert {key: found for key, found in lived.issues.items() if key[0] != "namesakes"} == fresh.issues
    for ref in list(objects):
        lived.compiler.remove(ref)
    lived.commit()
    assert (lived.published, lived.issues) == ({}, {})


def gateway(source: str, claim: str, **spec: Any) -> tuple[ObjectRef, Mapping[RowKey, Row]]:
    said = {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "GatewaySpec",
        "metadata": {"name": "edge", "namespace": "platform"},
        "spec": {
            "fleet": {"selector": {"matchLabels": {"role": "edge"}}},
            "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}],
            "routes": [
                {
                    "name": "r",
                    "hosts": ["a.test"],
                    "match": [{"path": {"prefix": "/"}}],
                    "public": True,
                    "respond": {"status": 200},
                }
            ],
            **spec,
        },
    }
    ref = ObjectRef(source, "GatewaySpec", "platform", "edge")
    return ref, split(ref, said, claim)


def test_the_next_takes_the_place_in_the_commit_that_removes_the_first() -> None:
    """A gateway that moves from a file to a cluster is not gone for a moment, nor what a node sees of it and of others."""
    lived = Lived()
    other = worlds.gateway(Random(1), "inner")
    lived.compiler.put(worlds.ref(other), worlds.split(other))
    first, second = gateway(FILES, ""), gateway(EU, CLAIMS[EU][0])
    lived.compiler.put(*second)
    lived.compiler.put(*first)
    both: Any = (GatewayName("platform/edge"), GatewayName("platform/inner"))
    lived.compiler.add_view(both)
    lived.commit()
    assert told(lived) == {"kubernetes/eu: GatewaySpec platform/edge"}
    before = dict(lived.published)
    lived.compiler.remove(first[0])
    commit = lived.compiler.commit_now()
    assert [resource for part in commit.publication.values() for *_, resource in part if resource is None] == []
    assert {
        (part, url, name): one for part, found in commit.publication.items() for url, name, one in found
    }.items() <= (before.items())  # it says the same
    assert (both, Family.ENVOY) in set(lived.compiler.views())
    assert commit.issues["namesakes", second[0]] == ()


def test_one_that_stands_back_changes_nothing() -> None:
    lived = Lived()
    lived.compiler.put(*gateway(EU, CLAIMS[EU][0]))
    lived.commit()
    lived.compiler.put(*gateway(US, CLAIMS[US][0], fleet={"selector": {"matchLabels": {"role": "other"}}}))
    runs = lived.compiler.tables.graph.runs
    assert (lived.commit(), lived.compiler.tables.graph.runs) == (0, runs)


def test_connections_of_a_certificate_that_the_next_lacks_are_drained() -> None:
    """As on an edit: requests on them have routes until Envoy has closed them."""

    def listeners(secret: str) -> dict[str, Any]:
        tls = [{"hosts": ["shop.example.com"], "certificate": {"secretRef": secret}}]
        return {"listeners": [{"name": "https", "port": 8443, "protocol": "HTTPS", "tls": tls}]}

    lived = Lived()
    first = gateway(EU, CLAIMS[EU][0], **listeners("shop-tls"))
    lived.compiler.put(*first)
    lived.compiler.put(*gateway(US, CLAIMS[US][0], **listeners("wild-tls")))
    lived.commit()
    assert not lived.compiler.tables.kept_chains.rows
    lived.compiler.remove(first[0])
    lived.commit()
    [(listener, group)] = lived.compiler.tables.kept_chains.rows
    assert (listener.object.source, group.rpartition(":")[2]) == (US, "shop-tls")


def test_what_was_before_a_start_is_compiled_first() -> None:
    """The one that counted was deleted while no control plane was there: the next one follows, as on any removal."""
    lived = Lived()
    first, second = gateway(EU, CLAIMS[EU][0]), gateway(US, CLAIMS[US][0])
    for _ in lived.compiler.succeeding(first[0], [first[1]], None):
        pass
    lived.compiler.put(*second)
    lived.commit()
    assert lived.compiler.in_force(first[0]) == second[0]
    assert (told(lived), bool(lived.published)) == (set(), True)


@given(st.permutations([FILES, EU, US]), st.permutations([FILES, EU, US]))
def test_who_counts_is_no_matter_of_order(arrivals: list[str], departures: list[str]) -> None:
    namesakes, there = Namesakes(), set[str]()
    for source, arrives in [*((one, True) for one in arrivals), *((one, False) for one in departures)]:
        ref, said = gateway(source, CLAIMS[source][0])
        namesakes.put(ref, said if arrives else None)
        (there.add if arrives else there.discard)(source)
        first = min(there, key=lambda one: CLAIMS[one][0], default=None)
        assert namesakes.in_force(ref) == (ref._replace(source=first) if first else None)


def test_equal_ages_are_decided_by_the_source() -> None:
    """Files and Consul say no age."""
    namesakes = Namesakes()
    for source in ("files", "consul/dc1"):
        namesakes.put(*gateway(source, ""))
    first = namesakes.in_force(gateway("files", "")[0])
    assert first is not None
    assert first.source == "consul/dc1"


# -- secrets ---------------------------------------------------------------------------------------------------------

EDGE = GatewayName("platform/edge")


def document(kind: str, namespace: str, name: str, spec: worlds.Said) -> worlds.Said:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def put(compiler: Compiler, source: str, said: worlds.Said) -> ObjectRef:
    ref = worlds.ref(said)._replace(source=source)
    compiler.put(ref, split(ref, said, ""))
    return ref


def messages(compiler: Compiler, view: tuple[GatewayName, ...], url: str, kind: Any) -> dict[str, Any]:
    return {one.name: kind.FromString(one.body) for one in compiler.resources(view) if one.type_url == url}


def test_secrets_of_one_name_in_two_clusters_are_two() -> None:
    """One cluster's authorities must not vouch for the backends of the other, whichever came first or goes."""
    delegate = {"name": "teams", "namespaces": ["checkout"], "hosts": ["*"], "addresses": ["203.0.113.0/24"]}
    fleet = {"selector": {"matchLabels": {"role": "edge"}}}
    listeners = [{"name": "http", "port": 8080, "protocol": "HTTP"}]
    edge = {"fleet": fleet, "listeners": listeners, "delegates": [delegate]}
    sources = (FILES, EU, US)
    pems = {source: Authority(source).pem for source in sources}

    def compiled(order: tuple[str, ...], gone: str | None = None) -> tuple[dict[str, bytes], dict[str, str]]:
        compiler = Compiler()
        put(compiler, FILES, document("GatewaySpec", "platform", "edge", edge))
        refs = {}
        for source in order:
            name = f"in-{source[-2:]}"
            member = {"static": {"address": "203.0.113.10", "port": 443}}
            tls = {
                "sni": "a.test",
                "mode": "mutual",
                "ca": {"secretRef": "partner"},
                "clientCertificate": {"secretRef": "partner"},
            }
            route = {"name": "r", "hosts": [f"{name}.test"], "public": True, "match": [{"path": {"prefix": "/"}}]}
            spec = {
                "gateway": EDGE,
                "backends": [{"name": "partner", "members": [member], "tls": tls}],
                "routes": [{**route, "to": [{"backend": "partner"}]}],
            }
            pair = authority().leaf("a.test")
            files = {"ca.crt": pems[source], "tls.crt": pair.certificate, "tls.key": pair.key}
            compiler.put_secret(SecretRef(source, "checkout", "partner"), Secret.of(files))
            refs[source] = put(compiler, source, document("RouteSpec", "checkout", name, spec))
            assert not compiler.commit_now().issues
        if gone is not None:
            compiler.remove(refs[gone])
            compiler.commit_now()
        secrets = messages(compiler, (EDGE,), SECRET, secret_pb2.Secret)
        trusted = {
            name: one.validation_context.trusted_ca.inline_bytes for name, one in secrets.items() if "trust/" in name
        }
        used = {}
        for name, cluster in messages(compiler, (EDGE,), CLUSTER, cluster_pb2.Cluster).items():
            tls_context = tls_pb2.UpstreamTlsContext()
            assert cluster.transport_socket.typed_config.Unpack(tls_context)
            common = tls_context.common_tls_context
            used[name.split("/")[2]] = common.combined_validation_context.validation_context_sds_secret_config.name
            [own] = common.tls_certificate_sds_secret_configs
            assert own.name in secrets
        return trusted, used

    names = {
        FILES: "trust/checkout/partner/ca.crt",
        EU: "trust/kubernetes/eu/checkout/partner/ca.crt",
        US: "trust/kubernetes/us/checkout/partner/ca.crt",
    }
    for order in permutations(sources):
        trusted, used = compiled(order)
        assert trusted == {names[source]: pems[source] for source in sources}
        assert used == {f"in-{source[-2:]}": names[source] for source in sources}
        trusted, _ = compiled(order, gone=EU)
        assert trusted == {names[source]: pems[source] for source in (FILES, US)}


def test_gateways_of_two_clusters_on_one_port_show_their_own_certificates() -> None:
    """Though both call them the same; and neither's connections reach the routes of the other."""
    compiler, view = Compiler(), tuple(GatewayName(f"platform/edge-{source[-2:]}") for source in (EU, US))
    pairs = {}
    for source, gateway in zip((EU, US), view, strict=True):
        host = f"{source[-2:]}.example.com"
        pairs[host] = authority().leaf(host)
        entry = {"hosts": [host], "certificate": {"secretRef": "shop-tls"}}
        respond = {"public": True, "match": [{"path": {"prefix": "/"}}], "respond": {"status": 200}}
        spec = {
            "fleet": {"selector": {"matchLabels": {"role": "edge"}}},
            "listeners": [{"name": "https", "port": 8443, "protocol": "HTTPS", "tls": [entry]}],
            "routes": [{"name": "r", "hosts": [host], **respond}],
        }
        files = {"tls.crt": pairs[host].certificate, "tls.key": pairs[host].key}
        compiler.put_secret(SecretRef(source, "platform", "shop-tls"), Secret.of(files))
        put(compiler, source, document("GatewaySpec", "platform", gateway.partition("/")[2], spec))
    compiler.add_view(view)
    assert not compiler.commit_now().issues
    secrets = messages(compiler, view, SECRET, secret_pb2.Secret)
    [listener] = messages(compiler, view, LISTENER, listener_pb2.Listener).values()
    groups, shown = set(), {}
    for chain in listener.filter_chains:
        tls_context = tls_pb2.DownstreamTlsContext()
        assert chain.transport_socket.typed_config.Unpack(tls_context)
        [sds] = tls_context.common_tls_context.tls_certificate_sds_secret_configs
        [host] = chain.filter_chain_match.server_names
        shown[host] = secrets[sds.name].tls_certificate.certificate_chain.inline_bytes
        groups.add(chain.name)
    assert shown == {host: pair.certificate for host, pair in pairs.items()}
    assert len(groups) == 2
    scopes = messages(compiler, view, SCOPED_ROUTE, scoped_route_pb2.ScopedRouteConfiguration).values()
    found = {tuple(one.route_configuration.name.split("|")[:2]) for one in scopes}
    assert {(group, host) for group, host in found if host.endswith(".example.com")} == {
        (f"0.0.0.0:8443:kubernetes:{host[:2]}:platform:shop-tls", host) for host in pairs
    }
