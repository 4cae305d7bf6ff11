"""Parts that several levels of tests share, one for a whole run."""

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["support.postgres"]

# How long an example takes says something of the machine only.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# In a Jenkins build, commands would take requests of different tests for repetitions of one.
os.environ.pop("BUILD_TAG", None)
