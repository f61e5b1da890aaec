"""The server's side: what became of every command, from `queued` to its verdict.

lifecycle     every state of a command and what moves it on     pure
safety        may it go out now? each rule a function           pure
condition     how a client stands, in one word                 pure
windows       when a maintenance window is open                 pure
recurrence    on which days a schedule runs                     pure
calendar      when its nights are, and what becomes of one      pure
report        how a night ended, client by client               pure
selection     selectors, and the hash of a preview              pure
presence      who is online, whatever the order of statuses     pure
dispatch      the bytes of a command, and when to ask again     pure
recovery      what is done about a client that does not come back     pure
policies      budgets, windows, deadlines and recovery as a site writes them    pure
brake         when a rollout stops, and what its sample proves   pure
stages        who is in which stage of a rollout            pure
rollout       every state of a rollout and what moves it on     pure
inventory     lists of clients, as CSV and from Ansible         pure
notifying     which notices become which message, and when      pure
freezing      events of a calendar as freezes                   pure
targets       whom to tell, as root writes it in a file         pure
text          what may stand in a name, a reason, a note        pure
ingest        bytes from clients become facts
engine        what is heard and what goes out, in one transaction after the other
recoveries    looks after clients that do not come back
notifier      tells people: messages of notices, and their way to each target
sending       sends one message to one target
webhook       a signed message over HTTP
apprised      mail, ntfy, Teams, Slack, Matrix: the door to apprise
ics           the events of a calendar file: the door to icalendar
calendars     reads that file each day
leader        takes the lease, and keeps the engine at work while it holds it
orders        makes commands for whoever asks
schedules     opens the nights of schedules, and ends them with a report
rollouts      many commands in stages, with a brake
auth          roles and tokens
grants        what an OpenID provider says of somebody, as a role and a name
oidc          asks that provider, and checks it: the door to authlib
passwords     what they have to be, and their hashes: the door to argon2
config        the settings, from environment variables
app           the program: API, leader, systemd's watchdog
doctor        what is wrong on this server, and what to do
hands         what an administrator does on the server itself
power/        ports of switches, by which clients lose their power and get it back
store/        the database
api/          HTTP
web/          the console: pages for people, made of what the API says
ctl/          the command line, which knows the controller by its API only
"""
