"""The reference part of docs/api.md, made from the OpenAPI document; a test holds the two together.

`python -m app.api.reference docs/api.md` puts it into that file; without a file it is printed.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.api.openapi import ALWAYS
from app.api.problems import TITLES

START, END = "<!-- reference: made by python -m app.api.reference docs/api.md -->", "<!-- end -->"


def reference(document: Mapping[str, Any]) -> str:
    """Return routes, fields of a job's body and problem codes as Markdown."""
    return "\n".join([
        START, "", *_routes(document), "", *_fields(document), "", *_codes(), "", END
    ])  # fmt: skip


def _routes(document: Mapping[str, Any]) -> list[str]:
    lines = ["### Routes", "", "| call | does | answers |", "|---|---|---|"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            usual = {str(status) for status in ALWAYS}
            statuses = ", ".join(s for s in operation["responses"] if s not in usual)
            lines.append(f"| `{method.upper()} {path}` | {operation['summary']} | {statuses} |")
    always = ", ".join(str(status) for status in ALWAYS)
    return [*lines, "", f"Every call may also be refused with {always}, or 405 and 404."]


def _fields(document: Mapping[str, Any]) -> list[str]:
    lines = [
        "### Body of `POST /jobs` and `POST /estimates`",
        "",
        "| field | meaning |",
        "|---|---|",
    ]
    schemas = document["components"]["schemas"]
    for name, field in schemas["JobBody"]["properties"].items():
        text = field.get("description") or _part_text(field, schemas)
        lines.append(f"| `{name}` | {' '.join(text.split())} |")
    return lines


def _part_text(field: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return the first sentence about a part of the configuration, and its fields."""
    references = [each["$ref"] for each in field.get("anyOf", ()) if "$ref" in each]
    schema = schemas[references[0].rsplit("/", 1)[-1]] if references else {}
    about = schema.get("description", "").split("\n\n")[0]
    names = ", ".join(f"`{name}`" for name in schema.get("properties", ()))
    return f"{about} Fields: {names}." if names else about


def _codes() -> list[str]:
    lines = ["### Problem codes", "", "| status | code | meaning |", "|---|---|---|"]
    found = sorted(TITLES.items(), key=lambda item: item[1][0])
    return lines + [f"| {status} | `{code}` | {title} |" for code, (status, title) in found]


def main() -> None:
    """Print the reference of this version, or put it into the file that is named."""
    from app.api.app import build_api
    from app.settings import read_settings

    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings({"HOME": folder, "DISTILLERY_DATA": str(Path(folder) / "data")})
        text = reference(build_api(settings).openapi())
    if len(sys.argv) < 2:
        sys.stdout.write(text + "\n")
        return
    page = Path(sys.argv[1])
    before, _, rest = page.read_text().partition(START)
    page.write_text(before + text + rest.partition(END)[2])


if __name__ == "__main__":
    main()
