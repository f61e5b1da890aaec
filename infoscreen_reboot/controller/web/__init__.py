"""The console: pages for people, each a view of what the API says, each action a call of the API's own functions.

shell      the frame around every page, its headers, and how times are said in it
session    signing in and out, and who is asking
attempts   how often somebody may try a password                pure
live       what has changed, as a hint to the pages that are open
fleet      all clients, the sickest first
views      searches of the fleet that somebody keeps
labels     sheets to print, with a code that leads a phone to its client
codes      the only door to segno
client     one client, for whoever stands in front of it
action     the one confirmation, and the order that follows it
batches    what became of many commands
schedules  rules for nights, what comes of them next, and making one
fields     a schedule as it is typed
revision   a schedule that is changed
nights     how a night ended, client by client
rollouts   stages, what their sample proves, and the brake
draft      a rollout before it is made
newcomers  clients that nobody has accepted, or that are not there any more
record     what people say of one client
ports      which port feeds which client, for admins
holds      what holds commands now, ports that are off, whom a message has not reached
audit      who did what
account    one's own password, sessions and tokens
users      who may sign in, and what each may do
"""
