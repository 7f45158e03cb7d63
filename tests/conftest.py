"""Settings for all tests."""

from hypothesis import settings

# How long an example takes says nothing on a machine that runs other things too.
settings.register_profile("pushbridge", deadline=None)
settings.load_profile("pushbridge")
