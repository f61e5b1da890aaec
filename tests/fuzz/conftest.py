"""The bus of tests/bus, for the tests that need no more."""

from tests.bus.conftest import bus, loop

__all__ = ["bus", "loop"]
