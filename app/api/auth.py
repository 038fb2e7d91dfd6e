"""Who is asking: API keys, the browser's session, and the login link that works once.

Keys and login tokens are stored as their SHA-256. A session is a cookie signed with a secret of
this installation, so it survives a restart; deleting `session.key` ends all of them.
"""

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import threading
import time
from pathlib import Path

from app.jobs.keys import PREFIX, KeyStore
from app.settings import Settings
from distillery.errors import ConfigError
from distillery.files import write_bytes

COOKIE = "distillery_session"
SESSION_S = 30 * 24 * 3600
LOGIN_S = 24 * 3600
KEY_CACHE_S = 10.0
"""A revoked key is refused after this many seconds at the latest."""


def check_bind(host: str, settings: Settings) -> None:
    """Refuse to listen where others can connect while no key is asked for.

    Raises:
        ConfigError: If authentication is off and `host` is not this machine alone.
    """
    if not settings.is_auth_on and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and DISTILLERY_AUTH is off: "
            "turn it on, or use --host 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def new_login_token(data: Path) -> str:
    """Make a token for the address `/login?token=...`; it works once, within a day."""
    folder = data / "login"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = secrets.token_urlsafe(32)
    content = json.dumps({"expires_at": time.time() + LOGIN_S}).encode()
    write_bytes(folder / _digest(token), content)
    return token


def _use_login_token(data: Path, token: str) -> bool:
    """Say whether a token is good, and make it worthless."""
    path = data / "login" / _digest(token)
    mine = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        os.rename(path, mine)  # of two that try at once, one gets it
    except OSError:
        return False
    try:
        return float(json.loads(mine.read_bytes())["expires_at"]) > time.time()
    finally:
        mine.unlink()


class Auth:
    """Checks keys and sessions."""

    def __init__(self, keys: KeyStore, settings: Settings) -> None:
        """Take the stored keys; the secret of the sessions is made when first needed."""
        self.keys, self.settings = keys, settings
        self._known: dict[str, tuple[float, str]] = {}
        self._secret: bytes | None = None
        self._lock = threading.Lock()

    def cached_key(self, secret: str) -> str | None:
        """Return the id of a key that was checked within the last seconds; asks no database."""
        found = self._known.get(_digest(secret))
        return found[1] if found and found[0] > time.monotonic() else None

    def was_good(self, secret: str) -> bool:
        """Say whether a key was valid when it was last checked, however long ago."""
        return _digest(secret) in self._known

    def check_key(self, secret: str) -> str | None:
        """Return the id of a valid key, None for any other text."""
        if not secret.startswith(PREFIX) or len(secret) > 200:
            return None
        record = self.keys.find(secret)
        digest = _digest(secret)
        with self._lock:
            self._known.pop(digest, None)
            if record is None:
                return None
            if len(self._known) > 1000:
                self._known.clear()
            self._known[digest] = (time.monotonic() + KEY_CACHE_S, record.id)
        return record.id

    def check_session(self, cookie: str) -> bool:
        """Say whether a cookie is a session of ours that has not ended."""
        expires, _, rest = cookie.partition(".")
        nonce, _, signature = rest.partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
            return False
        good = hmac.compare_digest(self._sign(f"{expires}.{nonce}").encode(), signature.encode())
        return good and int(expires) > time.time()

    def new_session(self) -> tuple[str, float]:
        """Return a session's cookie value and when it ends (seconds since 1970)."""
        expires = int(time.time()) + SESSION_S
        text = f"{expires}.{secrets.token_urlsafe(16)}"
        return f"{text}.{self._sign(text)}", float(expires)

    def use_login_token(self, token: str) -> bool:
        """Say whether a login token is good; it is worthless afterwards."""
        return 0 < len(token) <= 200 and _use_login_token(self.settings.data, token)

    def _sign(self, text: str) -> str:
        return hmac.new(self._session_secret(), text.encode(), hashlib.sha256).hexdigest()

    def _session_secret(self) -> bytes:
        """Return the secret of the sessions; whoever comes first writes it."""
        with self._lock:
            if self._secret is None:
                path = self.settings.data / "session.key"
                self.settings.data.mkdir(parents=True, exist_ok=True)
                try:
                    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                    with os.fdopen(handle, "wb") as file:
                        file.write(secrets.token_bytes(32))
                except FileExistsError:
                    pass
                for _ in range(100):  # another process may be writing it
                    self._secret = path.read_bytes()
                    if len(self._secret) == 32:
                        return self._secret
                    time.sleep(0.01)
                raise ConfigError(f"{path} must hold 32 bytes: remove it to end all sessions")
            return self._secret


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
