"""Imports run downwards only: app -> generator -> {finetune, robust} -> distillery."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each room with the rooms it may import; a room may always import itself.
ALLOWED = {
    "distillery.errors": set(),
    "distillery.seeds": set(),
    "distillery.progress": set(),
    "distillery.files": set(),
    "distillery.replay": set(),
    "distillery.wording": set(),
    "distillery.tensorfile": {"distillery.files"},
    "distillery.checkpoint": {"distillery.tensorfile"},
}
SHARED = set(ALLOWED)
ALLOWED |= {
    "distillery.machine": SHARED,
    "distillery.data": SHARED,
    "distillery.models": SHARED | {"distillery.data"},
    "distillery.evaluation": SHARED
    | {"distillery.data", "distillery.models", "distillery.machine"},
    "distillery.bundle": SHARED | {"distillery.data"},
    "distillery.client": SHARED | {"distillery.bundle"},
}
DISTILLERY = set(ALLOWED)
ALLOWED |= {
    "distillery": {"distillery.bundle", "distillery.client"},
    "finetune": DISTILLERY,
    "robust": DISTILLERY,
    "generator": DISTILLERY | {"finetune", "robust"},
    "app": DISTILLERY | {"distillery", "finetune", "robust", "generator"},
}
OURS = ("app", "generator", "finetune", "robust", "distillery")


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "distillery" else parts[0]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "distillery":  # `from distillery import seeds` names a module
                found |= {f"distillery.{alias.name}" for alias in node.names}
            else:
                found.add(node.module or "")
    return {name for name in found if name.split(".")[0] in OURS}


def source_files() -> list[Path]:
    return sorted(path for room in OURS for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    room = room_of(module)
    assert room in ALLOWED, f"{module}: say in ALLOWED where this room stands"
    for imported in imports_of(path):
        target = room_of(imported)
        assert target == room or target in ALLOWED[room], f"{module} may not import {imported}"


def test_packages_are_listed_in_pyproject() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    present = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in OURS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == present


def test_files_are_small_and_say_what_they_are_for() -> None:
    for path in source_files():
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{path} is longer than 400 lines: split it"
        assert ast.get_docstring(ast.parse(text)), f"{path} has no module docstring"
