"""One local Ray for all tests that need one; only imported by them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Six logical CPUs whatever the machine has: Ray only counts them."""
    import ray
    from ray import serve

    ray.init(
        num_cpus=6,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
        namespace="serve",
        configure_logging=False,
    )
    yield
    serve.shutdown()
    ray.shutdown()
