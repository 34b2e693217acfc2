"""The JSON Schema of the documents, for editors that complete and check (`controlplane schema`).

Made from the models, so it cannot say anything else. Rules that relate fields to each other are not in it: they are
checked by `controlplane validate`.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from controlplane.spec.gateway import API_VERSION, KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """One schema for all kinds: a document is one of them, by its `kind`."""
    models = [(model, "validation") for model in KINDS.values()]
    references, definitions = models_json_schema(models, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    return {
        "$schema": DIALECT,
        "$id": f"https://{API_VERSION}/schema.json",
        "title": f"Documents of {API_VERSION}",
        "oneOf": [references[model, "validation"] for model in KINDS.values()],
        "$defs": {name: _plain(definition) for name, definition in sorted(definitions["$defs"].items())},
    }


def _plain(schema: Any) -> Any:
    """Without what only editors would trip over: titles of fields, and null, which means the same as leaving out."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: value for key, value in schema.items() if key != "title" or isinstance(value, dict)}
    if "properties" in plain:
        fields = plain.pop("properties")
        plain = {key: _plain(value) for key, value in plain.items()}
        return {**plain, "properties": {name: _plain(field) for name, field in fields.items()}}
    if plain.get("default") is None or isinstance(plain["default"], dict | list):
        plain.pop("default", None)
    choices = [one for one in plain.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        del plain["anyOf"]
        plain = {**choices[0], **plain}
    return {key: _plain(value) for key, value in plain.items()}
