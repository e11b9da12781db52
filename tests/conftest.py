"""Machines that run these tests are shared: slow is no failure, and what is too slow pytest-timeout ends."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest goes first: of two workers, one would sit idle at the end while the other runs it."""
    items.sort(key=lambda item: "stack" not in item.path.parts)
