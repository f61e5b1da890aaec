"""How long hypothesis tries: each run the same, or much longer by hand with --hypothesis-profile=many.

`few` is for the build of the package, which shows that it works with the builder's libraries.
"""

from hypothesis import settings

settings.register_profile("same", derandomize=True, database=None, deadline=None, max_examples=100)
settings.register_profile("few", derandomize=True, database=None, deadline=None, max_examples=10)
settings.register_profile("many", database=None, deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("same")
