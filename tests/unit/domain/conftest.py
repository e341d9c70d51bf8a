"""Settings of the property tests."""

from hypothesis import settings

# A deadline per example measures how busy the machine is, not the rules.
settings.register_profile("domain", deadline=None)
settings.load_profile("domain")
