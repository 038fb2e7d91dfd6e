"""`distillery.Client`: a service from Python, without torch.

client = distillery.Client("http://127.0.0.1:8000", api_key="dst_...")
data = client.jobs.create(dataset="digits", ipc=10).wait().download("out")
"""

from typing import Any, Self

from distillery.client.jobs import Jobs
from distillery.client.transport import Transport

DEFAULT_URL = "http://127.0.0.1:8000"


class Client:
    """A connection to one service; a context manager that closes it."""

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout_s: float = 30.0,
        max_retries: int = 3,
    ) -> None:  # fmt: skip
        """Take the service's address and a key; nothing is sent yet.

        Args:
            url: Where the service answers.
            api_key: A key as `distillery keys create` prints it.
            timeout_s: How long an answer may take.
            max_retries: How often a request is repeated that failed in a way that may pass.

        Raises:
            ConfigError: If address or key cannot be one.
        """
        self._transport = Transport(url, api_key, timeout_s=timeout_s, max_retries=max_retries)
        self.jobs = Jobs(self._transport)

    @property
    def url(self) -> str:
        """Where the service answers."""
        return self._transport.url

    def estimate(self, dataset: Any = "digits", ipc: int | None = None, **fields: Any) -> Any:
        """Return what a job of the same arguments would decide and take; nothing is run."""
        body = {"dataset": dataset} | ({} if ipc is None else {"ipc": ipc}) | fields
        return self._transport.request("POST", "/estimates", json=body, timeout_s=120.0).json()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"
