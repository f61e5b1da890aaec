"""How long hypothesis tries: each run the same, or much longer by hand with --hypothesis-profile=many.

`few` is for the build of the package, which shows that it works with the builder's libraries.
"""

from hypothesis import HealthCheck, settings

# No time is measured: on a busy machine an example may take seconds.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
settings.register_profile("same", UNHURRIED, derandomize=True, max_examples=100)
settings.register_profile("few", UNHURRIED, derandomize=True, max_examples=10)
settings.register_profile("many", UNHURRIED, max_examples=1000, print_blob=True)
settings.load_profile("same")
