"""The JSON Schema follows the models."""

import json

from controlplane.spec.gateway import KINDS
from controlplane.spec.schema import DIALECT, schema


def test_every_kind_is_described() -> None:
    made = schema()
    assert made["$schema"] == DIALECT
    assert [choice["$ref"] for choice in made["oneOf"]] == [f"#/$defs/{kind}" for kind in KINDS]
    for kind in KINDS:
        assert made["$defs"][kind]["properties"]["kind"]["const"] == kind
        assert made["$defs"][kind]["additionalProperties"] is False


def test_fields_are_named_as_people_write_them() -> None:
    route = schema()["$defs"]["Route"]["properties"]
    assert set(route) >= {"name", "hosts", "match", "auth", "to"}
    assert schema()["$defs"]["Listener"]["properties"].keys() >= {"clientIP", "tls"}
    assert "anyOf" in schema()["$defs"]["Auth"]["properties"]


def test_every_reference_has_a_target() -> None:
    made = schema()
    text = json.dumps(made)
    for name in made["$defs"]:
        text = text.replace(f'"#/$defs/{name}"', "")
    assert '"$ref": "#' not in text


def test_it_is_stable() -> None:
    assert json.dumps(schema()) == json.dumps(schema())
