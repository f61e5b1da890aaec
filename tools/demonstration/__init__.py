"""A command's whole life, from the operator's terminal to a machine and back, live."""
