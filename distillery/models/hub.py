"""Models by Hub id: from the local cache, and from the network only where that is allowed.

Only JSON files, model cards and weights are fetched, never code. Where a repository has no
safetensors, its `.bin` weights are converted once into a folder beside the cache.
"""

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import EntryNotFoundError

from distillery.errors import ModelError
from distillery.models.shelf import PARTS

HARMLESS_FILES = ["*.json", "*.txt", "README.md", "*.safetensors"]
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def hub_cache() -> Path:
    """Return where the Hub's client keeps models."""
    return Path(constants.HF_HUB_CACHE)


def is_repo_id(reference: str) -> bool:
    """Say whether a reference looks like a Hub id, `org/name`."""
    return REPO_ID.fullmatch(reference) is not None


def commit_of(folder: Path) -> str | None:
    """Return the commit that a folder from this module stands for; None for other folders."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None


def fetch_model(
    repo_id: str,
    revision: str | None = None,
    *,
    allow_download: bool,
    cache: Path | None = None,
) -> Path:
    """Return the folder of a model repository, from the cache or (where allowed) the Hub.

    Args:
        repo_id: `org/name`.
        revision: Branch, tag or commit; None: the main branch.
        allow_download: Off: nothing but the local cache is asked.
        cache: Folder of the cache; None: the Hub client's own.

    Raises:
        ModelError: If the id is malformed, or the model is not there.
    """
    return _snapshot(repo_id, revision, HARMLESS_FILES, allow_download, cache)


def fetch_base(
    repo_id: str,
    revision: str | None = None,
    *,
    allow_download: bool,
    cache: Path | None = None,
) -> Path:
    """Return the folder of a DiT pipeline with safetensors weights, for `base.load_base`.

    Arguments and errors: see `fetch_model`.
    """
    folder = fetch_model(repo_id, revision, allow_download=allow_download, cache=cache)
    lacking = [part for part in PARTS if not any((folder / part).glob("*.safetensors"))]
    if not lacking or not (folder / "model_index.json").is_file():
        return folder
    cache_root = cache or hub_cache()
    converted = cache_root / "distillery-converted" / repo_id.replace("/", "--") / folder.name
    if converted.is_dir():
        return converted
    pickles = [f"{part}/*.bin" for part in lacking]
    # the commit just found, so that both fetches see one revision
    folder = _snapshot(repo_id, folder.name, HARMLESS_FILES + pickles, allow_download, cache)
    if all(any((folder / part).glob("*.bin")) for part in lacking):
        from distillery.models.convert import convert_folder  # with torch, only when needed

        convert_folder(folder, converted)
        return converted
    return folder  # load_base says which weights are missing


def _snapshot(
    repo_id: str,
    revision: str | None,
    patterns: list[str],
    allow_download: bool,
    cache: Path | None,
) -> Path:
    """Ask the Hub client for a snapshot, and explain its refusals in one sentence."""
    if not is_repo_id(repo_id):
        raise ModelError(f"a Hub id looks like org/name, got {repo_id!r}")
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache,
            allow_patterns=patterns,
            local_files_only=not allow_download,
        )
    except (OSError, ValueError, EntryNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        if not allow_download:
            raise ModelError(
                f"there is no folder {repo_id!r} here, and the Hub model of that name{at} is not "
                "in the local cache: downloads are off; allow them with --download "
                "(base.allow_download), or name a folder that holds it"
            ) from error
        first_line = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot fetch model {repo_id}{at} from the Hub: {first_line}") from error
    return Path(folder)
