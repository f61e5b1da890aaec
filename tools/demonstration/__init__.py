"""A command's whole life on a machine, live."""
