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
schedules   rules for nights, what became of each night, and its members
sites       places, with their zones and opening hours
rollouts    batches in stages, their members and what was counted of them
notices     what people are to be told
recoveries  what is done about clients that do not come back
power       ports that feed clients, and their power cycles
calendars   freezes out of a calendar
notices     what people are to be told, and the messages that tell it
deliveries  the outbox of these messages
people      users, tokens, the audit
saved_views searches of the fleet that people keep
lease       who may speak with the broker
views       what the faces read
conditions  how each client stands
zones       in which time zone a client is
figures     numbers that are watched
retention   what is deleted when it is old
"""
