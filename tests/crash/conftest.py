"""How long hypothesis tries."""

from tests import profiles  # noqa: F401  # it registers and chooses
