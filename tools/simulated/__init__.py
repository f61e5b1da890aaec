"""Clients that are not there: the real agent on a host that is only pretended, and light ones by the thousand.

agents   the real agent, with its store and its connection; some dozens in one process
light    what a client says on the wire and nothing else; ten thousand in one process
"""
