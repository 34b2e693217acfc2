"""Teams that were granted some paths of some hosts, what they declare, and the rules for it, written from the ADR alone.

A host that is declared by such teams alone is open: a request that none of its routes takes is for the next wider host.
Of two teams that want the same requests the older one keeps them, unless the younger was granted less than it.
"""

from __future__ import annotations

from random import Random

from tests.compile import reference, shard_cases
from tests.compile.reference import Outcome, Request, Said

PATHS = [
    base + more
    for base in ("", "/pay", "/cart", "/x", "/x/y", "/one", "/two", "/zzz", "/pay/a", "/pay/b", "/x/y/a", "/cart/a")
    for more in ("", "/", "/a", "/b", "/c", "/a.css", "/a/b")
]
"""Every path that requests ask for; two matches overlap when both take one of them."""
HOSTS = ("x.a.test", "y.a.test", "*.a.test", "z.x.a.test", "*.x.a.test", "*.test", "*", "b.test")
SEGMENTS = ("pay", "cart", "x")


def covers(pattern: str, host: str) -> bool:
    """Whether a pattern stands for every name that a host stands for."""
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def grants(random: Random) -> list[Said]:
    """What two teams are granted: mostly a path or two, now and then a whole host."""
    return [
        {
            "name": f"{team}-{number}",
            "namespaces": [team],
            "hosts": random.sample(HOSTS, random.randint(1, 2)),
            "pathPrefixes": random.choice((["/pay"], ["/pay"], ["/cart/"], ["/pay", "/x/y"], ["/"])),
        }
        for team in ("one", "two")
        for number in range(random.randint(1, 2))
    ]


def _path(random: Random, prefixes: list[str]) -> Said:
    base = random.choice(prefixes)
    if base == "/":
        base = f"/{random.choice(SEGMENTS)}"
    base = base.rstrip("/")
    more = random.choice(("", "/a", "/b"))
    kind = random.choice(("prefix", "prefix", "prefix", "exact", "template", "regex"))
    text = {"template": f"{base}/{{id}}", "regex": f"{base}/(a|b)"}.get(kind, f"{base}{more}")
    return {kind: text}


def _route(random: Random, name: str, hosts: list[str], path: Said) -> Said:
    match: Said = {"path": path}
    if random.random() < 0.2:
        match["methods"] = ["POST"]
    return {
        "name": name,
        "hosts": hosts,
        "match": [match],
        "respond": {"status": 200, "body": name},
        **random.choice(({"public": True}, {"auth": shard_cases.AUTH})),
    }


class World:
    """A gateway with its own routes, and what its teams declare on top of them."""

    def __init__(self, random: Random, ages: dict[str, str] | None = None) -> None:
        self.grants = grants(random)
        own = [
            _route(random, f"home{number}", random.sample(HOSTS, random.randint(1, 2)), path)
            for number in range(random.randint(0, 8))
            for path in [random.choice(({"prefix": "/"}, _path(random, ["/"]), {"regex": ".*[.]css"}))]
        ]
        self.gateway = shard_cases.gateway(own, delegates=self.grants)
        self.ages = ages or dict(zip(("one", "two"), random.sample(("a", "b"), 2), strict=True))
        self.teams: list[Said] = []
        self.specs = [self._spec(random, team) for team in ("one", "two")]
        self.routes = [{**route, "limited": False} for route in own] + self._accepted(own)

    def _spec(self, random: Random, team: str) -> Said:
        mine = [grant for grant in self.grants if team in grant["namespaces"]]
        routes = []
        for number in range(random.randint(0, 4)):
            grant = random.choice(mine)
            host = random.choice([host for host in HOSTS if any(covers(one, host) for one in grant["hosts"])])
            path = _path(
                random,
                random.choice((["/pay"], [f"/{team}"])) if "/" in grant["pathPrefixes"] else grant["pathPrefixes"],
            )
            if "/" in grant["pathPrefixes"] and random.random() < 0.4:
                path = random.choice(({"prefix": "/"}, {"regex": ".*[.]css"}, {"template": "/{any}/a"}))
            route = _route(random, f"{team}{number}", [host], path)
            routes.append(route)
            granted = [
                (pattern, prefix)
                for one in mine
                for pattern in one["hosts"]
                for prefix in one["pathPrefixes"]
                if covers(pattern, host)
            ]
            by = [pair for pair in granted if _within(pair[1], path)]
            if by:
                whole = [pair for pair in granted if pair[1] == "/"]
                self.teams.append(
                    {**route, "limited": not whole, "team": team, "age": self.ages[team], "by": by, "whole": whole}
                )
        none = _route(random, "none", ["none.invalid"], {"exact": "/"})
        return {
            "apiVersion": "gatewayspec.dev/v1alpha1",
            "kind": "RouteSpec",
            "metadata": {"name": "app", "namespace": team},
            "spec": {"gateway": "platform/shop", "routes": routes or [none]},
        }

    def _accepted(self, own: list[Said]) -> list[Said]:
        """Without the routes that would take from older ones."""
        claimed = [route for route in self.teams if not _is_home(route, own)]
        for route in self.teams:
            route["limited"] = route["limited"] or any(self._holds(older, route) for older in claimed)
        found: list[Said] = []
        for route in sorted(self.teams, key=lambda route: (self.ages[route["team"]], route["name"])):
            there = [*own, *self.teams]
            is_open = all(one.get("limited") for one in there if route["hosts"][0] in one["hosts"])
            floats = next(iter(route["match"][0]["path"].values())) in ("/", ".*[.]css", "/{any}/a")
            if (
                not _is_home(route, own)
                and not (is_open and floats)
                and not any(_takes_from(route, older) for older in found)
            ):
                found.append(route)
        return found

    def _holds(self, older: Said, route: Said) -> bool:
        """Whether a route for a wider host is older than a team that declares a host as a whole."""
        [host], [wider] = route["hosts"], older["hosts"]
        return (
            self.ages[older["team"]] < self.ages[route["team"]]
            and host != wider
            and covers(wider, host)
            and not any(all(_narrower(mine, theirs) for theirs in older["by"]) for mine in route["whole"])
        )

    def decide(self, request: Request) -> Outcome:
        """The narrowest declared host decides, unless it is open and none of its routes takes the request.

        What is refused declares its host all the same.
        """
        routes = [*self.routes, *({**route, "match": []} for route in self.teams)]
        while True:
            outcome = reference.decide(routes, request)
            host = reference.best_host(
                (name for one in routes for name in one["hosts"]), reference.canonical(request.host)
            )
            there = [route for route in routes if host in route["hosts"]]
            if outcome != Outcome(404) or not there or not all(route["limited"] for route in there):
                return outcome
            routes = [{**route, "hosts": [name for name in route["hosts"] if name != host]} for route in routes]

    def request(self, random: Random) -> Request:
        """A request to one of the hosts, aimed at one of the routes or beside them."""
        host = random.choice((*HOSTS, "q.x.a.test", "w.a.test", "v.test", "other"))
        host = host.replace("*", random.choice(("w", "v.w")))
        spelt = random.choice((host, host, host.upper(), f"{host}:80"))
        return Request(spelt, random.choice(PATHS) or "/", random.choice(("GET", "POST")))


def _within(prefix: str, path: Said) -> bool:
    text = next(iter(path.values()))
    return bool(
        text.startswith(f"{prefix.rstrip('/')}/") or (text == prefix and not prefix.endswith("/")) or prefix == "/"
    )


def _takes_from(one: Said, older: Said) -> bool:
    [host], [wider] = one["hosts"], older["hosts"]
    path, kept = one["match"][0]["path"], older["match"][0]["path"]
    if one["team"] == older["team"] or not covers(wider, host):
        return False
    if host == wider and reference._rank(one["match"][0])[:2] > reference._rank(older["match"][0])[:2]:
        return False
    same = host == wider and path == kept
    return any(_claims(one, asked or "/") and _claims(older, asked or "/") for asked in PATHS) and not _meant(
        one, older, same=same
    )


def _claims(route: Said, path: str) -> bool:
    """Whether a route may take a path: of a regex only its literal beginning counts."""
    kind, text = next(iter(route["match"][0]["path"].items()))
    if kind == "regex":
        return path.startswith(text.partition("(")[0].partition(".")[0])
    return reference._path_takes({kind: text}, path)


def _is_home(route: Said, own: list[Said]) -> bool:
    [host], path = route["hosts"], route["match"][0]["path"]
    return any(host in one["hosts"] and one["match"][0]["path"] == path for one in own)


def _narrower(mine: tuple[str, str], theirs: tuple[str, str]) -> bool:
    return mine != theirs and covers(theirs[0], mine[0]) and _within(theirs[1], {"prefix": mine[1]})


def _meant(one: Said, older: Said, *, same: bool) -> bool:
    return not same and any(all(_narrower(mine, theirs) for theirs in older["by"]) for mine in one["by"])
