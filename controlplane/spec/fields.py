"""The fields of models, and which of them somebody meant who wrote another one.

Called by `explain`. People come from Envoy, from the Gateway API, or wrote the field one level too high.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from controlplane.errors import nearest
from controlplane.spec.yaml import Path

_CLOSE = 0.8
"""How much alike two words are of which one is the other, mistyped."""
_FEW = 3
"""Places that are named."""
_DEEP = 2
"""Levels below the one of a field in which it is looked for."""

_CALLED_HERE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("domains", "hostnames", "servernames"), ("hosts",)),
    **dict.fromkeys(("rules", "virtualhosts", "httproutes"), ("routes",)),
    **dict.fromkeys(("backendrefs", "cluster", "forwardto", "route", "upstream", "weightedclusters"), ("to",)),
    **dict.fromkeys(("filters", "hostrewrite", "prefixrewrite", "rewrite", "urlrewrite"), ("transform",)),
    **dict.fromkeys(("headers", "requestheaderstoadd", "responseheaderstoadd"), ("transform",)),
    **dict.fromkeys(("clusters", "services", "upstreams"), ("backends",)),
    **dict.fromkeys(("endpoints", "instances", "lbendpoints", "loadassignment", "targets"), ("members",)),
    **dict.fromkeys(("upgrade", "upgradeconfigs", "upgradetype"), ("websocket",)),
    **dict.fromkeys(("cors", "middlewares", "plugins", "policy", "ratelimit"), ("use", "policies")),
    **dict.fromkeys(("lb", "lbpolicy", "loadbalancing", "loadbalancingpolicy"), ("loadBalancer",)),
    **dict.fromkeys(("directresponse", "response"), ("respond",)),
    **dict.fromkeys(("numretries", "retries"), ("attempts", "retry")),
    **dict.fromkeys(("on", "retryon"), ("when",)),
    **dict.fromkeys(("responsecode", "statuscode"), ("status", "code")),
    **dict.fromkeys(("https", "httpsredirect"), ("scheme",)),
    **dict.fromkeys(("certificaterefs", "secret", "secretname"), ("secretRef", "certificate")),
    **dict.fromkeys(("labels", "matchexpressions"), ("matchLabels", "selector")),
    **dict.fromkeys(("providers", "requirement", "requires"), ("anyOf",)),
    **dict.fromkeys(("parentref", "parentrefs"), ("gateway",)),
    **dict.fromkeys(("entrypoints", "sectionname"), ("listeners",)),
    **dict.fromkeys(("host", "hostname", "ip"), ("address", "hosts", "host")),
    **dict.fromkeys(("insecure", "insecureskipverify", "verify"), ("mode",)),
    **dict.fromkeys(("circuitbreakers", "maxconnections"), ("limits",)),
    **dict.fromkeys(("jwksuri", "remotejwks"), ("jwks",)),
    "name": ("backend", "service"),
    "saferegex": ("path", "regex"),
    "value": ("exact",),
}
"""What other words, in small letters without `_` and `-`, are called here; the first that is possible counts."""


def meant(field: str, model: type[BaseModel], path: Path) -> str:
    """The `help` for a field that is not known at a path."""
    import difflib  # only on the error path: it costs 5 ms at start

    known = names(model, path)
    words = _CALLED_HERE.get(re.sub(r"[_-]", "", field.lower()), ())
    if ours := next((one for one in words if one in known), None):
        return f'did you mean "{ours}"?'
    if difflib.get_close_matches(field, known, 1, _CLOSE):
        return nearest(field, known)
    levels: list[tuple[str, Any]] = [("", one) for one in at(model, path)]
    for _ in range(_DEEP):
        levels = [(f"{where}{name}", inner) for where, one in levels for name, inner in _below(one)]
        possible = [(where, {*_names(one)}) for where, one in levels]
        found = dict.fromkeys(f"{where}.{word}" for where, has in possible for word in (field, *words) if word in has)
        of_one = [one for one in found if "[]" not in one] or list(found)  # rather than of each of several
        if of_one:
            places = " or ".join(f'"{one}"' for one in of_one)
            return f"did you mean {places}?" if len(of_one) <= _FEW else nearest("", known)
        levels = [(f"{where}.", one) for where, one in levels]
    return nearest(field, known)


def names(model: type[BaseModel], path: Path) -> list[str]:
    """The fields that are possible at a path, as people write them, in the order in which they are defined."""
    return [name for one in at(model, path) for name in _names(one)]


def example(model: type[BaseModel], path: Path) -> str:
    """The `help` where something else stands than a mapping of fields."""
    found = [one for one in at(model, path) if _is_model(one)]
    if not found:
        return "such as {name: value}"
    required = [info.alias or name for name, info in found[0].model_fields.items() if info.is_required()]
    first = (required or _names(found[0]))[0]
    return f"such as {{{first}: …}}; {nearest('', _names(found[0]))}"


def at(model: type[BaseModel], path: Path) -> list[Any]:
    """The types that may stand at a path."""
    found: list[Any] = [model]
    for step in path:
        found = [inner for outer in found for inner in _inside(outer, step)]
    return found


def _names(one: Any) -> list[str]:
    return [info.alias or name for name, info in one.model_fields.items()] if _is_model(one) else []


def _below(one: Any) -> Iterator[tuple[str, Any]]:
    """The models in the fields of one, with where they stand."""
    for name, info in one.model_fields.items() if _is_model(one) else ():
        for inner in _bare(info.annotation):
            if get_origin(inner) in (tuple, list):
                yield from ((f"{info.alias or name}[]", each) for each in _bare(get_args(inner)[0]))
            else:
                yield info.alias or name, inner


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _inside(annotation: Any, step: str | int) -> Iterator[Any]:
    """The types that stand at `step` of a value of this type, without Annotated and Optional."""
    if _is_model(annotation):
        for name, info in annotation.model_fields.items():
            if step == (info.alias or name):
                yield from _bare(info.annotation)
    elif get_origin(annotation) in (tuple, list):
        yield from _bare(get_args(annotation)[0])
    elif get_origin(annotation) is dict:
        yield from _bare(get_args(annotation)[1])


def _bare(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _bare(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for one in get_args(annotation):
            yield from _bare(one)
    else:
        yield annotation
