"""How long hypothesis tries: each run the same, or much longer by hand with --hypothesis-profile=many."""

from hypothesis import settings

settings.register_profile("same", derandomize=True, database=None, deadline=None, max_examples=100)
settings.register_profile("many", database=None, deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("same")
