"""CustomResourceDefinitions follow the models, and keep the rules of structural schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from controlplane.model.written import OneOf
from controlplane.spec.crd import definitions
from controlplane.spec.gateway import KINDS
from controlplane.spec.listener import Listener

FOLDER = Path(__file__).parents[2] / "manifests" / "crds"


def schemas(found: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside one."""
    yield found
    for one in found.get("properties", {}).values():
        yield from schemas(one)
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            yield from schemas(found[key])


def whole(kind: str) -> dict[str, Any]:
    (version,) = definitions()[kind]["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifests_are_what_the_models_say(kind: str, pytestconfig: pytest.Config) -> None:
    file = FOLDER / f"{kind.lower()}s.yaml"
    made = yaml.safe_dump(definitions()[kind], sort_keys=False, width=120, allow_unicode=True)
    if pytestconfig.getoption("--update-golden"):
        file.write_text(made)
    assert file.read_text() == made, "make golden"


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_is_structural(kind: str) -> None:
    """The API server refuses a definition with references, defaults we do not want, or an object that is two things."""
    for schema in schemas(whole(kind)):
        assert "$ref" not in schema
        assert "default" not in schema, "the API server would write it into objects"
        assert schema.get("type") or schema.get("x-kubernetes-int-or-string"), schema
        assert not ("properties" in schema and "additionalProperties" in schema)
        if schema.get("type") == "array":
            assert schema["maxItems"] > 0


def test_every_choice_is_a_rule() -> None:
    """A choice that only the parser knows would be accepted by `kubectl apply`."""
    found = [schema for kind in KINDS for schema in schemas(whole(kind))]
    said = {rule["message"] for schema in found for rule in schema.get("x-kubernetes-validations", ())}
    wordless = {
        frozenset(one["required"][0] for one in rule["oneOf"]) for schema in found for rule in schema.get("allOf", ())
    }
    for choice in (choice for model in OneOf.__subclasses__() for choice in model.choices):
        assert choice.rule in said or frozenset(choice.names) in wordless
    assert {"say who may call: auth, or public: true for everybody (one of them)"} < said


def test_unknown_fields_are_kept_for_the_parser_to_report() -> None:
    spec = whole("GatewaySpec")["properties"]["spec"]
    objects = [one for one in schemas(spec) if one.get("type") == "object" and "additionalProperties" not in one]
    assert objects
    assert all(one["x-kubernetes-preserve-unknown-fields"] for one in objects)


def lists(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every list inside of a schema, by its path."""
    for name, one in found.get("properties", {}).items():
        yield from lists(one, f"{path}.{name}".lstrip("."))
    if "items" in found:
        yield path, found
        yield from lists(found["items"], path)


def test_elements_are_merged_by_their_name_and_conditions_are_not() -> None:
    """Two appliers may each have some routes; two conditions on one header are two."""
    found = dict(lists(whole("GatewaySpec")["properties"]["spec"]))
    merged = {path for path, one in found.items() if one.get("x-kubernetes-list-map-keys") == ["name"]}
    assert merged >= {"listeners", "backends", "routes", "policies", "delegates", "identity.jwt"}
    assert "routes.match.headers" in found.keys() - merged


def test_an_https_listener_needs_a_certificate() -> None:
    """In the words of the parser."""
    (rule,) = whole("GatewaySpec")["properties"]["spec"]["properties"]["listeners"]["items"]["x-kubernetes-validations"]
    with pytest.raises(ValidationError, match=rule["message"]):
        Listener.model_validate({"name": "web", "port": 443, "protocol": "HTTPS"})
