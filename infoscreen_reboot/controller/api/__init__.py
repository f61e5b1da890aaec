"""The HTTP API, `/api/v1`.

app         puts the routes together, and answers every error in one form
problems    the form of a refusal: problem+json with a bounded `kind`
access      who is calling, and what that role may do
door        the bound of a request, and what every answer has
models      what goes in and comes out
show        rows as the API shows them
files       lists that come as a file
commands, batches, rollouts, clients, recoveries, power, fleet, sites, views, schedules, people, telling, live, metrics
            the routes, by what they are about
"""
