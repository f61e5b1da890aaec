"""What both files with the kit for RabbitMQ want: one cluster, for it takes a while to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.many_brokers.kit import Cluster
from tests.many_brokers.servers import debian_version


def pytest_ignore_collect(collection_path: Path) -> bool:
    """The kit is for RabbitMQ 4, which bookworm does not have."""
    return collection_path.name.startswith("test_rabbitmq") and not debian_version("rabbitmq-server").startswith("4.")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
