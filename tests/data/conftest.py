"""Settings for the property tests of this room."""

from hypothesis import settings

# The first example pays for imports and thread pools; on a busy machine a deadline would judge that, not our code.
settings.register_profile("data", deadline=None)
settings.load_profile("data")
