"""`infoscreen-rebootctl`: the operator's command line. It knows the controller by its HTTP API only.

main          what is typed becomes an outcome
options       what can be typed
outcome       how a call can end, and its exit code
settings      address and token: from the environment, or as `login` stored them
connection    HTTP, and the stream of events
shapes        what the API answers
screen        what people see: tables, and text that can do a terminal no harm
times         moments and durations, as people write and read them
call          what each command works with
targets       which clients, commands and batches are meant
act           reboot, shutdown, retry: preview, question, creation
course        how far many commands are, from their events    pure
watch         shows that, live
rollouts      many in stages: preview, question, creation, and what a person says to them
progress      shows how a rollout goes on, live
history       commands and batches that were made
fleet         clients, freezes, and how things stand
schedule      schedules, their nights and reports
site          places, with their zones and opening hours
recoveries    clients that did not come back
power         ports that feed clients, and power cycles
people        login, tokens, users, audit
telling       what people were told, and whom
transfer      import and export
doctor        whether this all works
"""
