"""A dataset on the Hugging Face Hub, from the local cache or (where allowed) fetched.

Only Parquet and image files are fetched, never code, and nothing of a repository is ever run. The
commit is recorded, so that the same images can be had again.
"""

import re
from dataclasses import replace
from pathlib import Path

from distillery.data.config import DataConfig
from distillery.data.source import Source
from distillery.data.sources.folder import open_folder
from distillery.data.sources.layout import IMAGE_SUFFIXES
from distillery.data.sources.parquet import configurations, open_parquet, parquet_files
from distillery.errors import ConfigError, DataError

REFERENCE = re.compile(
    r"(?P<id>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{0,127}))?"
)
PATTERNS = ["*.parquet", "README.md"]
IMAGE_PATTERNS = [f"*{s}" for suffix in IMAGE_SUFFIXES for s in (suffix, suffix.upper())]
MAX_CARD_BYTES = 64 * 1024


def parse_hub_reference(reference: str, revision: str | None) -> tuple[str, str | None] | None:
    """Return (repository id, revision) of `org/name[@revision]`, or None if it is no such text.

    Raises:
        ConfigError: If the reference and `revision` name different revisions.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None or ".." in match["id"] or "--" in match["id"]:
        return None
    if match["revision"] and revision and match["revision"] != revision:
        raise ConfigError(
            f"the dataset names revision {match['revision']!r} and the option revision "
            f"{revision!r}; keep one of them"
        )
    return match["id"], match["revision"] or revision


def pinned(config: DataConfig, commit: str) -> DataConfig:
    """Return the configuration that reads a Hub dataset at this commit, whatever was named."""
    parsed = parse_hub_reference(config.dataset, config.revision)
    return replace(config, dataset=parsed[0] if parsed else config.dataset, revision=commit)


def open_hub(repo_id: str, revision: str | None, config: DataConfig) -> Source:
    """Return a dataset of the Hub in Parquet files or class folders.

    Args:
        repo_id: `org/name`.
        revision: Commit, branch or tag; None: the main branch.
        config: Says whether anything may be fetched.

    Raises:
        DataError: If it is not in the cache and may not be (or cannot be) fetched, or holds
            neither Parquet files nor class folders.
    """
    folder = _snapshot(repo_id, revision, config.allow_download)
    # files in a snapshot are links to the blobs of the same repository
    repository = folder.parent.parent
    if files := parquet_files(folder, repository):
        _refuse_several(repo_id, revision, configurations(folder, files))
        source = open_parquet(
            folder, max_pixels=config.max_image_pixels, label_column=config.label_column,
            reference=repo_id, boundary=repository,
        )  # fmt: skip
    else:
        refuse_label_column(config)
        source = open_folder(
            folder, max_pixels=config.max_image_pixels, reference=repo_id,
            boundary=repository,
        )  # fmt: skip
    # a snapshot's folder is named by its commit
    return replace(source, kind="hub", revision=folder.name, licence=licence_of(folder))


def _refuse_several(repo_id: str, revision: str | None, folders: list[str]) -> None:
    """Raise DataError for a repository of several datasets, with what to type for one of them."""
    if len(folders) < 2:
        return
    below = next(name for name in folders if name != ".")
    at = f" --revision {revision}" if revision else ""
    raise DataError(
        f"the Hub dataset {repo_id!r} holds several datasets, in the folders {folders}; fetch one "
        f'with \'hf download --repo-type dataset {repo_id}{at} --include "{below}/*" --local-dir '
        f"DIR' and name its folder, DIR/{below}"
    )


def refuse_label_column(config: DataConfig) -> None:
    """Raise ConfigError if a column was named for a dataset that has none."""
    if config.label_column is not None:
        raise ConfigError(
            f"data.label_column {config.label_column!r} would be ignored, because only Parquet "
            "files have columns: leave it out"
        )


def licence_of(folder: Path) -> str | None:
    """Return the licence that a folder's README.md states in its front matter, if any."""
    try:
        with open(folder / "README.md", "rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    if not text.startswith("---"):
        return None
    front = text.split("\n---", 1)[0]
    match = re.search(r"^licen[sc]e:[ \t]*\n?[ \t]*-?[ \t]*['\"]?([\w.+-]{1,60})", front, re.M)
    return match[1] if match else None


def _snapshot(repo_id: str, revision: str | None, allow_download: bool) -> Path:
    """Return the folder of the dataset's files in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )  # fmt: skip

    try:
        return Path(
            snapshot_download(
                repo_id, repo_type="dataset", revision=revision,
                allow_patterns=[*PATTERNS, *IMAGE_PATTERNS], local_files_only=not allow_download,
            )
        )  # fmt: skip
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        gated = " that you may read; log in with 'hf auth login'" * isinstance(
            error, GatedRepoError
        )
        raise DataError(
            f"there is no file or folder {repo_id!r} here, and no dataset of that name{at} on "
            f"the Hub{gated or '; check the spelling'}"
        ) from error
    except LocalEntryNotFoundError as error:
        reason = (
            "the Hub cannot be reached; check the connection"
            if allow_download
            else "downloads are off; allow them with --download (data.allow_download), or fetch it "
            "first with "
            f"'hf download --repo-type dataset {repo_id}'"
        )
        raise DataError(
            f"there is no file or folder {repo_id!r} here, and the Hub dataset of that name is not "
            f"in the local cache: {reason}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise DataError(
            f"fetching the Hub dataset {repo_id!r} failed ({error}); try again later"
        ) from error
