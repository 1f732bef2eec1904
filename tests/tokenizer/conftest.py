from hypothesis import settings

# The first call compiles, and no test here is about time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
