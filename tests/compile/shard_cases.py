"""Random routes and the requests that try them, for the reference matcher and for what is compiled."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.compile.reference import Request, Said

HOSTS = ("a.example.com", "b.example.com", "x.a.example.com", "*.example.com", "*.a.example.com", "*", "c.test")
SEGMENTS = ("api", "a", "b.c", "API", "x-y", "~u", "caf%C3%A9", "a;b", "v1", "x", "12", "s" * 255, "t" * 256)
REGEXES = (
    "/api/[0-9]+", "/[a-z]+/x", r".*\.css", "/v1/.*", "/a/?", "/api|/a", r"/b\.c/.*", "(?i)/api/x", "/api(/x)?",
    r"/x\-y", "/[^/]*", "/v1/?x", "^/api/x$", "/a+/x", "/api/{0,1}x", "/x{2}", r"/a/\d+", "/(api|v1)/x", "/v1/(x|y)",
)  # fmt: skip
KEY_SET = '{"keys": [{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'
"""A public key from RFC 7517, appendix A: no token of a test is signed by it."""
GROUP = "0.0.0.0:8080"
"""The chain that all of them are on."""
AUTH = {"anyOf": [{"jwt": "corp"}]}


def _literal(random: Random) -> str:
    parts = [random.choice(SEGMENTS) for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3)))]
    return "/" + "/".join(parts) + ("/" if parts and random.random() < 0.2 else "")


def _template(random: Random) -> str:
    parts = [random.choice((*SEGMENTS[:11], "{%d}", "{%d}", "*")) for _ in range(random.randint(1, 3))]
    parts = [part.replace("%d", f"v{number}") for number, part in enumerate(parts)]
    if random.random() < 0.3:
        parts.append(random.choice(("**", "{rest=**}")))
    return "/" + "/".join(parts)


def _match(random: Random) -> Said:
    kind = random.choice(("exact", "prefix", "prefix", "prefix", "template", "regex"))
    text = {"template": _template, "regex": lambda random: random.choice(REGEXES)}.get(kind, _literal)(random)
    said: Said = {"path": {kind: text}}
    if random.random() < 0.25:
        said["methods"] = random.choice((["GET"], ["POST"], ["POST", "GET"]))
    if random.random() < 0.2:
        condition: Said = random.choice(({"exact": "red"}, {"prefix": "re"}, {"present": True}, {"present": False}))
        said["headers"] = [{"name": "x-team", **condition}]
    if random.random() < 0.15:
        said["query"] = [{"name": "v", **random.choice(({"exact": "2"}, {"present": True}))}]
    return said


def routes(random: Random, count: int) -> list[Said]:
    """Routes that answer with their own name; a third of them wants a token."""
    found: list[Said] = []
    for number in range(count):
        route: Said = {
            "name": f"r{number:03}",
            "hosts": sorted(set(random.choices(HOSTS, k=random.choice((1, 1, 2))))),
            "match": [_match(random) for _ in range(random.choice((1, 1, 1, 2)))],
            "respond": {"status": 200, "body": f"r{number:03}"},
        }
        route |= {"auth": AUTH} if random.random() < 0.33 else {"public": True}
        found.append(route)
    return found


def gateway(routes: list[Said], **more: Any) -> Said:
    """A GatewaySpec with these routes."""
    return {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "GatewaySpec",
        "metadata": {"name": "shop", "namespace": "platform"},
        "spec": {
            "fleet": {"selector": {"matchLabels": {"role": "edge"}}},
            "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}],
            "identity": {
                "jwt": [{"name": "corp", "issuer": "i", "audiences": ["a"], "jwks": {"inline": KEY_SET}}],
            },
            "routes": routes,
            **more,
        },
    }


def _written(random: Random, path: str) -> str:
    """Another way to write a path, or one that is almost the same."""
    letters = [place for place, letter in enumerate(path) if letter.isalpha() and "%" not in path]
    match random.randrange(16):
        case 0 if letters:
            place = random.choice(letters)
            return f"{path[:place]}%{ord(path[place]):02X}{path[place + 1 :]}"
        case 1:
            return path.replace("/", "//", 1)
        case 2:
            return f"/zzz/..{path}"
        case 3:
            return f"/.{path}"
        case 4:
            return f"{path}/"
        case 5:
            return f"{path};x=1"
        case 6:
            return "/" + path[1:].replace("/", "%2F")
        case 7:
            return f"{path}/x"
        case 8:
            return "/" + path[1:].replace("/", "\\", 1)
        case 9:
            return f"{path}/.."
        case 10:
            return f"{path}x"
        case 11:
            return f"{path}/%2e%2E/x"
        case 12:
            return path.swapcase() if "%" not in path else path
        case _:
            return path


def _like(random: Random, said: Said) -> str:
    """A path that such a match may take."""
    kind, text = next(iter(said["path"].items()))
    if kind == "template":
        parts = [
            random.choice(("x", "api", "x/y"))
            if part == "**" or part.endswith("**}")
            else random.choice(SEGMENTS[:11])
            if part.startswith(("{", "*"))
            else part
            for part in text[1:].split("/")
        ]
        return "/" + "/".join(parts)
    if kind == "regex":
        return random.choice(("/api/12", "/api/x", "/v1/x", "/a", "/a/", "/b.c/x", "/x-y", "/x.css", "/API/X", "/xx"))
    return str(text)


def _host(random: Random) -> str:
    host = random.choice((*HOSTS, "d.example.com", "y.a.example.com", "p.q.example.com", "other.test", "example.com"))
    host = host.replace("*", random.choice(("w", "v.w")))
    match random.randrange(8):
        case 0:
            return host.upper()
        case 1:
            return f"{host}:8080"
        case 2:
            return f"{host}."
        case 3:
            return f"{host.title()}.:99"
        case _:
            return host


def request(random: Random, routes: list[Said]) -> Request:
    """A request that is aimed at one of the routes, more or less."""
    if random.random() < 0.75 and routes:
        path = _like(random, random.choice(random.choice(routes)["match"]))
    else:
        path = _literal(random)
    target = _written(random, path)
    if random.random() < 0.3:
        target += random.choice(("?v=2", "?v=3", "?x=/api/x&v=2", "?/api", "?v"))
    headers = random.choice(({}, {}, {"x-team": "red"}, {"x-team": "blue"}))
    return Request(_host(random), target, random.choice(("GET", "GET", "POST")), dict(headers))
