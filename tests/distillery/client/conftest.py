"""A service of a test's own making, and a client of it that does not sleep."""

from collections.abc import Iterator

import pytest
from service_double import ServiceDouble

from distillery.client.client import Client


@pytest.fixture
def service() -> Iterator[ServiceDouble]:
    double = ServiceDouble()
    yield double
    double.close()


@pytest.fixture
def slept() -> list[float]:
    """Return the list of pauses that the client would have made."""
    return []


@pytest.fixture
def client(service: ServiceDouble, slept: list[float]) -> Iterator[Client]:
    with Client(service.url, api_key="dst_key") as client:
        client._transport.sleep = slept.append
        yield client
