"""CustomResourceDefinitions of the kinds, made from the same models as parser and JSON Schema.

`manifests/crds/` holds what this module gives (`controlplane schema --crd`). The API server refuses most mistakes with them;
what only the parser or the compiler can see is in the status. Structural schemas have no references and no
`additionalProperties: false`: unknown fields are kept, and reported by the parser. There are no defaults: written into
an object, they would look as if somebody had said them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.model.written import NAME, Choice, OneOf
from controlplane.spec.gateway import API_VERSION, KINDS
from controlplane.spec.listener import NEEDS_TLS, Listener
from controlplane.spec.schema import schema

GROUP, VERSION = API_VERSION.split("/")

MAX_ITEMS = 4096
"""Elements of a list that has no bound of its own: the API server must be able to bound the cost of rules."""

MAX_CHECKS = 500_000
"""How often a rule may run for one object: the API server bounds their cost. Beyond, the same is said without words."""

_KEPT = frozenset(
    {
        "description", "enum", "format", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems",
        "minLength", "minProperties", "minimum", "pattern", "properties", "required", "type",
    }
)  # fmt: skip
"""What JSON Schema and structural schemas have in common; everything else is translated or left to the parser."""

_SHORT = {"GatewaySpec": ["gws"], "RouteSpec": ["rts"]}


def definitions() -> dict[str, dict[str, Any]]:
    """The CustomResourceDefinition of each kind, by kind."""
    known = schema()["$defs"]
    return {kind: _definition(kind, known) for kind in KINDS}


def _definition(kind: str, known: dict[str, Any]) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": _SHORT[kind],
                "categories": ["gateways"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(_columns(kind)),
                    "schema": {
                        "openAPIV3Schema": {
                            "description": known[kind]["description"],
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": _structural(known[kind]["properties"]["spec"], known, 1),
                                "status": STATUS,
                            },
                        }
                    },
                }
            ],
        },
    }


def _columns(kind: str) -> Iterator[dict[str, Any]]:
    def condition(name: str) -> str:
        return f'.status.conditions[?(@.type=="{name}")].status'

    if kind == "RouteSpec":
        yield {"name": "Gateway", "type": "string", "jsonPath": ".spec.gateway"}
    yield {"name": "Compiled", "type": "string", "jsonPath": condition("Compiled")}
    yield {"name": "Programmed", "type": "string", "jsonPath": condition("Programmed")}
    if kind == "GatewaySpec":
        yield {"name": "Proxies", "type": "integer", "jsonPath": ".status.fleet.matched"}
    yield {"name": "Error", "type": "string", "jsonPath": ".status.lastError.message", "priority": 1}
    yield {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def _structural(said: dict[str, Any], known: dict[str, Any], count: int) -> dict[str, Any]:
    """A structural schema of what a JSON Schema says, as far as the former can say it.

    `count` is how many of these one object can hold.
    """
    name = said.get("$ref", "").removeprefix("#/$defs/")
    if name:
        said = {**known[name], **{key: value for key, value in said.items() if key != "$ref"}}
    made = {key: value for key, value in said.items() if key in _KEPT}
    if "const" in said:
        made["enum"] = [said["const"]]
    if "items" in made:
        made.setdefault("maxItems", MAX_ITEMS)
        made["items"] = _structural(made["items"], known, count * made["maxItems"])
        if _is_named(made["items"]):
            made |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    if isinstance(values := said.get("additionalProperties"), dict):
        made["additionalProperties"] = _structural(values, known, count)
    elif "patternProperties" in said:
        (values,) = said["patternProperties"].values()
        made["additionalProperties"] = _structural(values, known, count)
    elif made.get("type") == "object":
        fields = made.get("properties", {}).items()
        made["properties"] = {field: _structural(one, known, count) for field, one in fields}
        made["x-kubernetes-preserve-unknown-fields"] = True
    if {one.get("type") for one in said.get("anyOf", ())} == {"integer", "string"}:
        made["x-kubernetes-int-or-string"] = True  # which has no type of its own
    if name == Listener.__name__:
        made["x-kubernetes-validations"] = [_HTTPS]
    if choices := _choices(name):
        if count <= MAX_CHECKS:
            made["x-kubernetes-validations"] = [_rule(choice) for choice in choices]
        else:
            made["allOf"] = [{"oneOf": [{"required": [field]} for field in choice.names]} for choice in choices]
    return made


def _is_named(items: dict[str, Any]) -> bool:
    """Whether these are elements of a document: names differ, and whoever applies some leaves those of others alone."""
    return "name" in items.get("required", ()) and items["properties"]["name"].get("pattern") == NAME


def _choices(model: str) -> tuple[Choice, ...]:
    return next((one.choices for one in OneOf.__subclasses__() if one.__name__ == model), ())


def _rule(choice: Choice) -> dict[str, str]:
    """A choice as an expression, in the words that the parser uses."""
    count = " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in choice.names)
    return {"rule": f"{count} == 1", "message": choice.rule}


_HTTPS = {"rule": "self.protocol != 'HTTPS' || has(self.tls)", "message": NEEDS_TLS}
_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "format": "int32"}
STATUS: dict[str, Any] = {
    "description": "Written by the control plane; bounded, and at most once in an interval.",
    "type": "object",
    "properties": {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "snapshot": {**_TEXT, "description": "The version of what is compiled, as in GET /v1/gateways."},
        "conditions": {
            "type": "array",
            "maxItems": 8,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": {**_TEXT, "maxLength": 64},
                    "status": {**_TEXT, "enum": ["True", "False", "Unknown"]},
                    "reason": {**_TEXT, "maxLength": 64},
                    "message": {**_TEXT, "maxLength": 2048},
                    "observedGeneration": {"type": "integer", "format": "int64"},
                    "lastTransitionTime": {**_TEXT, "format": "date-time"},
                },
            },
        },
        "fleet": {
            "description": "Counts of the proxies that are connected to the replica that writes this.",
            "type": "object",
            "properties": dict.fromkeys(("matched", "synced", "pending", "nacked"), _COUNT),
        },
        "errors": {**_COUNT, "description": "How many errors there are; lastError is the worst."},
        "lastError": {
            "type": "object",
            "properties": {
                "code": {**_TEXT, "maxLength": 16},
                "path": {**_TEXT, "maxLength": 1024},
                "message": {**_TEXT, "maxLength": 2048},
                "help": {**_TEXT, "maxLength": 1024},
            },
        },
    },
}
"""The `status` of every kind."""
