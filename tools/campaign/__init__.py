"""Random commands crossed with random faults on real machines.

runs        `tools/faults`: many runs, and the table
plan        what a run does, drawn from its seed
ground      the machine on which it is played
mischief    how each fault is done, and taken away
witness     stands between client and broker
trial       one run
guarantees  evidence in, broken guarantees out
"""
