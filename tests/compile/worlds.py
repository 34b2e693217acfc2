"""Random gateways, routes and secrets, as a platform team and two app teams would write and break them."""

from __future__ import annotations

from random import Random
from typing import Any

from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef
from controlplane.spec.gateway import KINDS
from controlplane.spec.rows import Row, RowKey, rows
from tests.compile.shard_cases import KEY_SET
from tests.support.certificates import authority

Said = dict[str, Any]
GATEWAYS = ("edge", "inner")
SPECS = {"cart": "team", "pay": "team", "mail": "other"}
"""Documents of app teams, with their namespaces."""
HOSTS = ("shop.example.com", "pay.example.com", "*.example.com", "*")
SHOP = ObjectRef("files", "GatewaySpec", "platform", "shop")
SECRETS = ("shop-tls", "wild-tls", "keys", "broken")


def _some(random: Random, values: Any, most: int = 2) -> list[Any]:
    return random.sample(list(values), random.randint(0, most))


def _listeners(random: Random) -> list[Said]:
    http: Said = {"name": "http", "port": random.choice((80, 8080)), "protocol": "HTTP"}
    if random.random() < 0.2:
        http["redirect"] = {"port": 8443}
    if random.random() < 0.3:
        http["use"] = [random.choice(("limit", "cors", "gone"))]
    https: Said = {
        "name": "https",
        "port": 8443,
        "protocol": "HTTPS",
        "tls": [{"hosts": ["shop.example.com"], "certificate": {"secretRef": random.choice(SECRETS)}}],
    }
    if random.random() < 0.5:
        hosts = random.choice((["*.example.com"], ["*"], ["*.example.com", "pay.example.com"]))
        https["tls"].append({"hosts": hosts, "certificate": {"secretRef": random.choice(("wild-tls", "shop-tls"))}})
    if random.random() < 0.2:
        https["clientIP"] = {"trustedHops": 1}
    return random.choice(([http], [http, https], [https]))


def _backend(random: Random, name: str) -> Said:
    backend: Said = {
        "name": name,
        "members": [{"static": {"address": "127.0.0.1", "port": random.randint(9000, 9003)}}],
    }
    if random.random() < 0.5:
        backend["protocol"] = random.choice(("HTTP2", "GRPC"))
    if random.random() < 0.1:
        backend["members"].append({"dns": {"host": "a.test", "port": 80}, "weight": 2})
    if random.random() < 0.2:
        backend["tls"] = {"sni": "a.test", "ca": {"secretRef": random.choice(SECRETS)}}
    return backend


def _route(random: Random, name: str) -> Said:
    path = random.choice(
        ({"prefix": "/"}, {"prefix": "/api"}, {"exact": "/api/x"}, {"template": "/{a}/x"}, {"regex": ".*[.]css"})
    )
    match: Said = {"path": path}
    if random.random() < 0.3:
        match["methods"] = ["GET"]
    if random.random() < 0.1:
        match["headers"] = [
            random.choice(({"name": "x-user", "present": True}, {"name": "x", "exact": "a", "invert": True}))
        ]
    route: Said = {"name": name, "hosts": sorted(set(random.choices(HOSTS, k=2))), "match": [match]}
    route |= (
        {"public": True} if random.random() < 0.5 else {"auth": {"anyOf": [{"jwt": random.choice(("corp", "gone"))}]}}
    )
    route |= {"to": [{"backend": random.choice(("web", "own", "gone"))}]} if random.random() < 0.8 else {
        "respond": {"status": 200}
    }  # fmt: skip
    if used := _some(random, ("cors", "limit", "gone")):
        route["use"] = used
    if random.random() < 0.2:
        route["listeners"] = [random.choice(("http", "https", "gone"))]
    if random.random() < 0.2 and "to" in route:
        route["timeouts"] = {"request": f"{random.randint(1, 60)}s"}
    return route


def _policies(random: Random) -> list[Said]:
    limit = {"requests": random.randint(1, 3), "per": "minute"}
    found = [
        {"name": "cors", "cors": {"origins": ["https://a.test"]}},
        {"name": "limit", "rateLimit": {"local": [limit]}},
    ]
    return random.sample(found, random.randint(0, 2))


def _providers(random: Random) -> list[Said]:
    jwks = random.choice(
        ({"inline": KEY_SET}, {"uri": "https://id.test/jwks"}, {"secretRef": random.choice(("keys", "broken", "gone"))})
    )
    provider: Said = {"name": "corp", "issuer": "i", "audiences": ["a"], "jwks": jwks}
    if random.random() < 0.5:
        provider["claimsToHeaders"] = {"sub": "x-user"}
    if random.random() < 0.3:
        provider["from"] = [{"header": "x-user"}]
    return [provider] if random.random() < 0.8 else []


def gateway(random: Random, name: str) -> Said:
    spec: Said = {
        "fleet": {"selector": {"matchLabels": {"role": random.choice(("edge", "edge", "other"))}}},
        "listeners": _listeners(random),
        "identity": {"jwt": _providers(random)},
        "policies": _policies(random),
        "backends": [_backend(random, "web")] if random.random() < 0.8 else [],
        "routes": [_route(random, name) for name in _some(random, ("home", "api", "files"), 3)],
    }
    places: Said = {"addresses": ["0.0.0.0/0", "127.0.0.0/8"], "dnsHosts": ["*"], "backends": ["web"]}
    spec["delegates"] = [
        {
            "name": namespace,
            "namespaces": [namespace],
            "hosts": random.choice((["*"], ["*"], ["*.example.com"], ["shop.example.com"])),
            "pathPrefixes": random.choice((["/"], ["/api", "/files"], ["/api"], ["/api/x"])),
            **places,
        }
        for namespace in ("team", "other")
        if random.random() < 0.8
    ]
    if random.random() < 0.3:
        spec["guardrails"] = {"timeouts": {"request": f"{random.randint(10, 20)}s"}}
    metadata = {"name": name, "namespace": "platform"}
    return {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "GatewaySpec", "metadata": metadata, "spec": spec}


def route_spec(random: Random, name: str) -> Said:
    spec: Said = {
        "gateway": f"platform/{random.choice((*GATEWAYS, *GATEWAYS, 'gone'))}",
        "backends": [_backend(random, "own")] if random.random() < 0.6 else [],
        "routes": [_route(random, name) for name in ("home", "api", "files")[: random.randint(1, 3)]],
    }
    metadata = {"name": name, "namespace": SPECS[name]}
    return {"apiVersion": "gatewayspec.dev/v1alpha1", "kind": "RouteSpec", "metadata": metadata, "spec": spec}


def changed(random: Random, said: Said, fresh: Said) -> Said:
    """The document with one part of it as in another one: most edits are small."""
    part = random.choice(sorted(fresh["spec"].keys() & said["spec"].keys()))
    return {**said, "spec": {**said["spec"], part: fresh["spec"][part]}}


def ref(said: Said) -> ObjectRef:
    return ObjectRef("files", said["kind"], said["metadata"]["namespace"], said["metadata"]["name"])


def split(said: Said) -> dict[RowKey, Row]:
    return rows(ref(said), KINDS[said["kind"]].model_validate(said))


def secret(name: str) -> tuple[SecretRef, Secret]:
    """The secret of this name; there is one content for each, since a bad rotation keeps what history gave."""
    pair = authority().leaf("shop.example.com")
    files = {
        "keys": {"jwks.json": KEY_SET.encode()},
        "broken": {"jwks.json": b"?", "tls.crt": b"?", "ca.crt": b"?"},
    }.get(name, {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority().pem})
    return SecretRef("files", "platform", name), Secret.of(files)


def with_backends(backends: list[Said]) -> dict[RowKey, Row]:
    """A gateway that has nothing but these."""
    spec = {
        "fleet": {"selector": {"matchLabels": {"role": "edge"}}},
        "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}],
        "backends": backends,
    }
    said = {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "GatewaySpec",
        "metadata": {"name": "shop", "namespace": "platform"},
        "spec": spec,
    }
    return rows(SHOP, KINDS["GatewaySpec"].model_validate(said))
