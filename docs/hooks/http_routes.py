"""The page of HTTP routes, from the service's OpenAPI description."""

from collections.abc import Mapping
from typing import Any

from option_tables import cell, table


def http_routes(api: Mapping[str, Any]) -> str:
    """Each route of the OpenAPI description: parameters, bodies, answers; then the bodies' fields."""
    text = (
        f"# HTTP routes\n\n{api['info']['description']} From the service's OpenAPI description "
        "([openapi.json](../openapi.json)). [The encoder service](../http-api.md) explains them with examples.\n\n"
    )
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            text += f"## {method.upper()} {path}\n\n{route.get('description', '')}\n\n"
            rows = [
                [f"`{one['name']}`", one["in"], _schema(one["schema"]), cell(one.get("description", ""))]
                for one in route.get("parameters", [])
            ]
            text += table(["parameter", "in", "value", ""], rows) if rows else ""
            for kind, body in route.get("requestBody", {}).get("content", {}).items():
                text += f"Body, `{kind}`: {_schema(body.get('schema', {}))}\n\n"
            text += table(
                ["status", "answer", ""], [list(_answer(code, one)) for code, one in route["responses"].items()]
            )
    text += "## Bodies\n\n"
    for name, schema in api["components"]["schemas"].items():
        required = schema.get("required", [])
        rows = [
            [f"`{field}`{' (required)' if field in required else ''}", _schema(one), cell(one.get("description", ""))]
            for field, one in schema.get("properties", {}).items()
        ]
        text += f"### {name}\n\n{schema.get('description', '')}\n\n" + table(["field", "value", ""], rows)
    return text


def _answer(code: str, answer: Mapping[str, Any]) -> tuple[str, str, str]:
    kinds = [f"`{kind}`: {_schema(body.get('schema', {}))}" for kind, body in answer.get("content", {}).items()]
    return code, "<br>".join(kinds), " ".join(answer["description"].split()).replace("|", "\\|")


def _schema(schema: Mapping[str, Any]) -> str:
    """A schema in words, with links to the bodies."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_schema(part) for part in parts))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    limits = [
        f"{word} {schema[key]}" for key, word in (("minimum", "at least"), ("maximum", "at most")) if key in schema
    ]
    default = [f"default `{schema['default']}`"] if schema.get("default") not in (None, "") else []
    return ", ".join([str(schema.get("const", schema.get("type", "anything"))), *limits, *default])
