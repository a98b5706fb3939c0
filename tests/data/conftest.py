"""Hypothesis without its limit on an example's time: a busy machine is not a bug."""

from hypothesis import settings

settings.register_profile("data", deadline=None)
settings.load_profile("data")
