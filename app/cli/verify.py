"""`distillery verify`: is a bundle whole, and one of ours? Needs numpy only."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import clean, err, out
from app.cli.display import write_event
from app.settings import read_settings
from distillery.bundle.read import read_bundle
from distillery.bundle.schema import FILE_NAME
from distillery.errors import BundleError
from distillery.files import expand_user

PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="distilled.safetensors, the folder that holds it, or that of a job."
    ),
]


def verify_verb(
    path: PathArgument,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check a bundle to its last byte.

    A file: header, names, shapes, label range, finite numbers, digest. A folder: also every other
    file against SHA256SUMS, and the manifest. Exit code 2 where something is wrong.

    Example: distillery verify runs/digits-ipc10-seed0/bundle
    """
    settings, path = read_settings(), bundle_of(path)
    try:
        findings = _findings(path)
    except BundleError as error:
        if as_json:
            write_event("verify", {"path": str(path), "ok": False, "findings": [str(error)]})
        raise
    data = None if findings else read_bundle(path)
    if as_json:
        fields = {"path": str(path), "ok": not findings, "findings": findings}
        if data is not None:
            fields |= {"content_digest": data.content_digest, "images": len(data)}
        write_event("verify", fields)
    elif data is not None:
        console = out(settings)
        console.print(f"ok: {clean(path)}", soft_wrap=True)
        console.print(f"    {data!r}")
        console.print(f"    content digest {data.content_digest}", soft_wrap=True)
    else:
        for finding in findings:
            err(settings).print(f"  {clean(finding)}", soft_wrap=True)
    if findings:
        raise BundleError(f"{path} is not a whole bundle: {len(findings)} finding(s)")


def bundle_of(path: Path) -> Path:
    """Return the bundle file or folder that a path names, which may be the folder of a job."""
    path = expand_user(path)
    if (path / "bundle").is_dir() and not (path / FILE_NAME).exists():
        return path / "bundle"
    return path


def _findings(path: Path) -> list[str]:
    """Return what is wrong with a bundle file or folder."""
    if path.is_dir():
        from distillery.bundle.folder import verify_folder

        return verify_folder(path)
    read_bundle(path)  # raises the one thing that is wrong with a file
    return []
