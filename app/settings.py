"""What the environment says, read in this one place and handed on as values.

A variable that is set after a command has started changes nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FALSE_WORDS = ("", "0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Folders and switches of this process."""

    cache: Path
    """Shared stages: prepared data, bases, adapters (`DISTILLERY_CACHE`)."""
    hub_cache: Path
    """Where the Hub client keeps models and datasets (`HF_HUB_CACHE`, `HF_HOME`)."""
    is_offline: bool
    """Whether the Hub client may not use the network (`HF_HUB_OFFLINE`)."""
    has_hub_token: bool
    """Whether the Hub client would log in (`HF_TOKEN`, or the file that `hf auth login` wrote)."""
    use_color: bool
    """Off where `NO_COLOR` is set to anything, as no-color.org asks."""
    allocator: str | None
    """`PYTORCH_CUDA_ALLOC_CONF` or `MALLOC_` variables that someone has set, for `doctor`."""


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of an environment, by default this process's own."""
    env = os.environ if environment is None else environment
    home = Path(env.get("HOME") or Path.home())
    xdg_cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    hub_home = Path(env.get("HF_HOME") or xdg_cache / "huggingface")
    hub_cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or hub_home / "hub"
    token_file = Path(env.get("HF_TOKEN_PATH") or hub_home / "token")
    set_by_user = [f"{name}={env[name]}" for name in sorted(env) if _is_allocator(name)]
    return Settings(
        cache=Path(env.get("DISTILLERY_CACHE") or xdg_cache / "distillery").expanduser(),
        hub_cache=Path(hub_cache).expanduser(),
        is_offline=env.get("HF_HUB_OFFLINE", "").lower() not in FALSE_WORDS,
        has_hub_token=bool(env.get("HF_TOKEN")) or token_file.expanduser().is_file(),
        use_color=not env.get("NO_COLOR"),
        allocator=" ".join(set_by_user) or None,
    )


def _is_allocator(name: str) -> bool:
    """Say whether a variable tunes a memory allocator."""
    return name.startswith("MALLOC_") or name in ("PYTORCH_CUDA_ALLOC_CONF", "LD_PRELOAD")
