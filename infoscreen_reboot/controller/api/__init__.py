"""The HTTP API, `/api/v1`.

app         puts the routes together, and answers every error in one form
problems    the form of a refusal: problem+json with a bounded `kind`
access      who is calling, and what that role may do
models      what goes in and comes out
commands, batches, clients, fleet, people, live     the routes, by what they are about
"""
