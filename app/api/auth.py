"""Who is asking: API keys, the browser's session, and the login link that works once.

Keys and login tokens are stored as their SHA-256. A session is a cookie signed with a secret of
this installation, so it survives a restart; it ends with its key, by logging out, or, like all
others, with `session.key`.
"""

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.api.limits import Buckets
from app.api.problems import Problem
from app.jobs.keys import PREFIX, KeyStore
from app.settings import Settings
from distillery.errors import ConfigError
from distillery.files import write_bytes

COOKIE = "distillery_session"
SESSION_S = 30 * 24 * 3600
LOGIN_S = 24 * 3600
KEY_CACHE_S = 10.0
"""A revoked key, or an ended session, is refused after this many seconds at the latest."""
LIST_S = 2.0
"""How old the list of keys may be that tells a good key from a guess."""
LINK = "link"
"""Stands in a session for the key that it ends with, where a login link began it."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a cookie that we have signed says."""

    expires: int
    """Seconds since 1970."""
    owner: str
    """Id of the key that it was given for, or `LINK`."""
    nonce: str


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
        self._failures = Buckets(0.2, 20)
        self._known: dict[str, tuple[float, str]] = {}
        self._listed: set[str] = set()
        self._listed_until = 0.0
        self._open: dict[str, float] = {}
        self._secret: bytes | None = None
        self._lock = threading.Lock()

    def cached_key(self, secret: str) -> str | None:
        """Return the id of a key that was checked within the last seconds; asks no database."""
        found = self._known.get(_digest(secret))
        return found[1] if found and found[0] > time.monotonic() else None

    def admit(self, secret: str, client: str) -> str | None:
        """Return the id of a valid key, None for any other text; asks the database.

        Raises:
            Problem: `too_many_attempts`, for a guess from an address that has sent too many.
        """
        if self._failures.is_empty(client) and not self._is_listed(secret):
            self.check_attempts(client)
        return self.check_key(secret)

    def _is_listed(self, secret: str) -> bool:
        """Say whether a key is among the valid ones, by a list that is read every few seconds.

        So a good key gets in while others guess from its address, and their guesses ask nothing.
        """
        with self._lock:
            if time.monotonic() > self._listed_until:
                self._listed = self.keys.digests()
                self._listed_until = time.monotonic() + LIST_S
            return _digest(secret) in self._listed

    def check_attempts(self, client: str) -> None:
        """Refuse an address that has sent too many wrong keys or login tokens.

        Raises:
            Problem: `too_many_attempts`.
        """
        if self._failures.is_empty(client):
            raise Problem("too_many_attempts", "too many wrong keys: wait", retry_after_s=10)

    def note_failure(self, client: str) -> None:
        """Count a wrong key or login token of an address."""
        self._failures.wait_s(client)

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

    def cached_session(self, cookie: str) -> bool:
        """Say whether a session was good within the last seconds; asks no database."""
        session = self._read(cookie)
        return session is not None and self._open.get(session.nonce, 0) > time.monotonic()

    def check_session(self, cookie: str) -> bool:
        """Say whether a cookie is a session of ours that has not ended, nor its key."""
        session = self._read(cookie)
        if session is None:
            return False
        has_key = session.owner == LINK or self.keys.is_valid(session.owner)
        is_open = has_key and not self.keys.has_ended(session.nonce)
        with self._lock:
            self._open.pop(session.nonce, None)
            if is_open:
                if len(self._open) > 1000:
                    self._open.clear()
                self._open[session.nonce] = time.monotonic() + KEY_CACHE_S
        return is_open

    def new_session(self, owner: str) -> tuple[str, float]:
        """Return a session's cookie value and when it ends (seconds since 1970).

        Args:
            owner: Id of the key that it ends with, or `LINK`.
        """
        expires = int(time.time()) + SESSION_S
        text = f"{expires}.{owner}.{secrets.token_urlsafe(16)}"
        return f"{text}.{self._sign(text)}", float(expires)

    def end_session(self, cookie: str) -> None:
        """Make a session worthless before its time; other texts do nothing."""
        session = self._read(cookie)
        if session is not None:
            self.keys.end_session(session.nonce, datetime.fromtimestamp(session.expires, UTC))
            with self._lock:
                self._open.pop(session.nonce, None)

    def _read(self, cookie: str) -> Session | None:
        """Return what a cookie says, None where we have not signed it or its time is over."""
        text, _, signature = cookie.rpartition(".")
        expires, _, rest = text.partition(".")
        owner, _, nonce = rest.partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
            return None
        good = hmac.compare_digest(self._sign(text).encode(), signature.encode())
        return Session(int(expires), owner, nonce) if good and int(expires) > time.time() else None

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
