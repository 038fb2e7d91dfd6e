"""What the environment says, read in this one place and handed on as values.

A variable that is set after a command has started changes nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from distillery.errors import ConfigError

FALSE_WORDS = ("", "0", "false", "no", "off")
HARMLESS_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TMPDIR",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
)  # fmt: skip


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
    data: Path
    """Jobs, uploads and the embedded queue of the service (`DISTILLERY_DATA`)."""
    database_url: str
    """Of the queue (`DISTILLERY_DATABASE_URL`); by default `queue.sqlite` in `data`. A password may
    be given by itself, as it is (`DISTILLERY_DATABASE_PASSWORD`)."""
    datasets: Path | None
    """Folder whose subfolders and archives jobs may name (`DISTILLERY_DATASETS`)."""
    models: Path | None
    """Folder whose subfolders are DiT pipelines that jobs may name or take as their base unasked
    (`DISTILLERY_MODELS`)."""
    is_auth_on: bool
    """Whether requests need a key (`DISTILLERY_AUTH`, on unless it says off)."""
    url: str | None
    """Where the client finds the service (`DISTILLERY_URL`); None: on this machine."""
    public_url: str | None
    """Under which browsers reach the service, for the links it prints
    (`DISTILLERY_PUBLIC_URL`); None: where it listens."""
    api_key: str | None
    """Key that the client sends (`DISTILLERY_API_KEY`)."""
    max_queued: int
    """Jobs that may wait at once (`DISTILLERY_MAX_QUEUED`)."""
    max_upload_bytes: int
    """Size limit of an uploaded archive (`DISTILLERY_MAX_UPLOAD_BYTES`)."""
    max_streams: int
    """Event streams that may be open at once (`DISTILLERY_MAX_STREAMS`)."""
    disk_floor_bytes: int
    """Free space below which no job is taken (`DISTILLERY_DISK_FLOOR_BYTES`)."""
    retention_days: float | None
    """Days that finished jobs are kept (`DISTILLERY_RETENTION_DAYS`); None: until deleted."""
    cache_keep_bytes: float | None
    """Size to which workers prune the cache (`DISTILLERY_CACHE_KEEP_GB`); None: as much as leaves
    room on its disk."""
    dead_after_s: float
    """Seconds without a beat after which a worker counts as dead (`DISTILLERY_DEAD_AFTER_S`)."""
    allow_download: bool
    """Whether jobs may fetch models and datasets from the Hub (`DISTILLERY_ALLOW_DOWNLOAD`)."""
    allowed_hosts: tuple[str, ...]
    """Names beside addresses and `localhost` under which the service may be asked for; `*` is any
    (`DISTILLERY_ALLOWED_HOSTS`, separated by commas)."""
    trusted_proxies: tuple[str, ...]
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed
    (`DISTILLERY_TRUSTED_PROXIES`, separated by commas); by default none."""
    max_requests_per_s: float
    """Requests a second of one client, with four seconds' worth at once; 0 is any number
    (`DISTILLERY_MAX_REQUESTS_PER_S`)."""
    child_environment: Mapping[str, str]
    """Variables that a process which opens uploaded data may see: none of them a secret."""


def read_settings(
    environment: Mapping[str, str] | None = None, *, data: Path | None = None
) -> Settings:
    """Return the settings of an environment, by default this process's own.

    Args:
        environment: Variables by name.
        data: Goes over `DISTILLERY_DATA`.

    Raises:
        ConfigError: If a variable that must be a number is none.
    """
    env = os.environ if environment is None else environment
    if data is not None:
        env = {**env, "DISTILLERY_DATA": str(data.expanduser().absolute())}
    home = Path(env.get("HOME") or Path.home())
    xdg_cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    hub_home = Path(env.get("HF_HOME") or xdg_cache / "huggingface")
    hub_cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or hub_home / "hub"
    token_file = Path(env.get("HF_TOKEN_PATH") or hub_home / "token")
    set_by_user = [f"{name}={env[name]}" for name in sorted(env) if _is_allocator(name)]
    xdg_data = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    data = _place(env.get("DISTILLERY_DATA") or xdg_data / "distillery")
    datasets, models = env.get("DISTILLERY_DATASETS"), env.get("DISTILLERY_MODELS")
    retention = _number(env, "DISTILLERY_RETENTION_DAYS", 0)
    return Settings(
        cache=_place(env.get("DISTILLERY_CACHE") or xdg_cache / "distillery"),
        hub_cache=Path(hub_cache).expanduser(),
        is_offline=env.get("HF_HUB_OFFLINE", "").lower() not in FALSE_WORDS,
        has_hub_token=bool(env.get("HF_TOKEN")) or token_file.expanduser().is_file(),
        use_color=not env.get("NO_COLOR"),
        allocator=" ".join(set_by_user) or None,
        data=data,
        database_url=_database_url(env) or f"sqlite:///{data / 'queue.sqlite'}",
        datasets=_place(datasets) if datasets else None,
        models=_place(models) if models else None,
        is_auth_on=env.get("DISTILLERY_AUTH", "on").lower() not in FALSE_WORDS,
        url=env.get("DISTILLERY_URL") or None,
        public_url=(env.get("DISTILLERY_PUBLIC_URL") or "").rstrip("/") or None,
        api_key=env.get("DISTILLERY_API_KEY") or None,
        max_queued=int(_number(env, "DISTILLERY_MAX_QUEUED", 100)),
        max_upload_bytes=int(_number(env, "DISTILLERY_MAX_UPLOAD_BYTES", 2 * 2**30)),
        max_streams=int(_number(env, "DISTILLERY_MAX_STREAMS", 200)),
        disk_floor_bytes=int(_number(env, "DISTILLERY_DISK_FLOOR_BYTES", 2**30)),
        retention_days=retention or None,
        cache_keep_bytes=_cache_keep_bytes(env),
        dead_after_s=_number(env, "DISTILLERY_DEAD_AFTER_S", 120),
        allow_download=env.get("DISTILLERY_ALLOW_DOWNLOAD", "").lower() not in FALSE_WORDS,
        allowed_hosts=_names(env, "DISTILLERY_ALLOWED_HOSTS"),
        trusted_proxies=_names(env, "DISTILLERY_TRUSTED_PROXIES"),
        max_requests_per_s=_number(env, "DISTILLERY_MAX_REQUESTS_PER_S", 100),
        child_environment={name: env[name] for name in HARMLESS_VARIABLES if name in env},
    )


def _place(path: str | Path) -> Path:
    """Return a folder that is the same for every process, whatever it works in."""
    return Path(path).expanduser().absolute()


def _database_url(env: Mapping[str, str]) -> str | None:
    """Return the database's URL with its password, escaped, where one is given by itself.

    Raises:
        ConfigError: If the URL has no place for it.
    """
    url, password = env.get("DISTILLERY_DATABASE_URL"), env.get("DISTILLERY_DATABASE_PASSWORD")
    if not password:
        return url or None
    parts = urlsplit(url or "")
    user, _, host = parts.netloc.rpartition("@")
    if not user or ":" in user:
        raise ConfigError(
            "DISTILLERY_DATABASE_PASSWORD needs a DISTILLERY_DATABASE_URL with a user and no "
            "password, such as postgresql://distillery@host/distillery"
        )
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def _names(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return a variable that holds names between commas, in lower case."""
    return tuple(each.strip().lower() for each in env.get(name, "").split(",") if each.strip())


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    """Return a variable that holds a number of 0 or more.

    Raises:
        ConfigError: If it holds something else.
    """
    text = env.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name} must be a number of 0 or more, got {text!r}")
    return value


def _cache_keep_bytes(env: Mapping[str, str]) -> float | None:
    """Return the cap of the cache, None where none is set; 0 keeps what is in use alone."""
    name = "DISTILLERY_CACHE_KEEP_GB"
    return _number(env, name, 0) * 1e9 if env.get(name) else None


def _is_allocator(name: str) -> bool:
    """Say whether a variable tunes a memory allocator."""
    return name.startswith("MALLOC_") or name in ("PYTORCH_CUDA_ALLOC_CONF", "LD_PRELOAD")


CHILD_NAMES = (
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT",
    "PYTHONPATH", "PYTHONHOME", "PYTHONHASHSEED", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT",
    "HF_TOKEN", "HF_TOKEN_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
CHILD_PREFIXES = (
    "LC_", "XDG_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "MALLOC_",
    "PYTORCH_", "TORCH_", "ACCELERATE_",
)  # fmt: skip


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a process that does a stage gets to see: no keys and addresses of the service.

    Threads that wait for work sleep instead of spinning, see `app.cli.local.start_local`.
    """
    env = os.environ if environment is None else environment
    kept = {
        name: value
        for name, value in env.items()
        if name in CHILD_NAMES or name.startswith(CHILD_PREFIXES)
    }
    return {"OMP_WAIT_POLICY": "PASSIVE"} | kept
