"""The JSON schema of space files, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from search.space.spec import SpaceSpec


def json_schema() -> dict[str, Any]:
    """The JSON schema of a space file (draft 2020-12); numbers may have the units that the loader reads."""
    schema = SpaceSpec.model_json_schema(by_alias=True, schema_generator=_Schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "tinysearch space"}


class _Schema(GenerateJsonSchema):
    """Leaves out nulls and empty defaults, because nobody writes them."""

    def default_schema(self, schema: Any) -> dict[str, Any]:
        generated = super().default_schema(schema)
        if generated.get("default") in (None, "", {}, []) or isinstance(generated.get("default"), dict):
            generated.pop("default", None)
        return generated

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])
