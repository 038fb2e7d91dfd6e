"""`/docs`: the OpenAPI document as a plain page, without scripts and without a CDN."""

import html
import json
from collections.abc import Mapping
from typing import Any

START = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>API - Distillery</title>
<link rel="icon" href="/static/mark.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/page.css"></head><body><main>"""


def docs_page(document: Mapping[str, Any]) -> bytes:
    """Return the page of an OpenAPI document."""
    parts = [START, "<h1>API</h1>", _paragraphs(document["info"]["description"])]
    parts.append('<p><a href="/openapi.json">openapi.json</a> &middot; <a href="/">jobs</a></p>')
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method != "head":
                parts.append(_operation(method, path, operation, document))
    return "".join([*parts, "</main></body></html>"]).encode()


def _operation(
    method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> str:
    """Return one route, folded."""
    title = f"<code>{method.upper()} {html.escape(path)}</code> {_text(operation.get('summary'))}"
    rows = [
        f"<tr><td><code>{_text(each['name'])}</code></td><td>{_text(each['in'])}</td>"
        f"<td>{_text(each.get('description'))}</td></tr>"
        for each in operation.get("parameters", ())
    ]
    table = f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    answers = "".join(
        f"<tr><td><code>{status}</code></td><td>{_text(response['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    return (
        f"<details><summary>{title}</summary>{_paragraphs(operation.get('description', ''))}"
        f"{table}{_body(operation, document)}"
        f"<table><tbody>{answers}</tbody></table></details>"
    )


def _body(operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return the fields of a JSON body, or the media types of another."""
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return ""
    media = content.get("application/json")
    if media is None:
        return f"<p>Body: {_text(', '.join(content))}</p>"
    name = media["schema"].get("$ref", "").rsplit("/", 1)[-1]
    schema = document["components"]["schemas"].get(name, {})
    rows = "".join(
        f"<tr><td><code>{_text(field)}</code></td><td>{_text(about.get('description'))}</td></tr>"
        for field, about in schema.get("properties", {}).items()
    )
    example = f"<pre>{_text(json.dumps(media['example']))}</pre>" if "example" in media else ""
    return f"<p>Body:</p>{example}<table><tbody>{rows}</tbody></table>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part)


def _text(value: Any) -> str:
    return html.escape(str(value or ""))
