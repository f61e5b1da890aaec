"""What the controller knows, in SQLite or PostgreSQL. One transaction is one fact and its event; the only SQLAlchemy.

database    opens either, and runs transactions
schema      migrations, and the copy before them
tables      what is stored
bulk        statements for many rows at once
commands    made, moved on by facts, given out
clients     what clients say of themselves
batches     many commands from one preview
facts       what the rules ask for
fleet       what people change
rollouts    batches in stages, their members and what was counted of them
notices     what people are to be told
people      users, tokens, the audit
lease       who may speak with the broker
views       what the faces read
figures     numbers that are watched
retention   what is deleted when it is old
"""
