"""Machines that run these tests are shared: slow is no failure, and what is too slow pytest-timeout ends."""

from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
