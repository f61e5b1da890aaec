"""The server's side: what became of every command, from `queued` to its verdict.

lifecycle     every state of a command and what moves it on     pure
safety        may it go out now? each rule a function           pure
windows       when a maintenance window is open                 pure
selection     selectors, and the hash of a preview              pure
presence      who is online, whatever the order of statuses     pure
dispatch      the bytes of a command, and when to ask again     pure
brake         when a rollout stops, and what its sample proves   pure
stages        who is in which stage of a rollout            pure
rollout       every state of a rollout and what moves it on     pure
policies      budgets, windows and deadlines as a site writes them    pure
inventory     lists of clients, as CSV and from Ansible         pure
text          what may stand in a name, a reason, a note        pure
ingest        bytes from clients become facts
engine        what is heard and what goes out, in one transaction after the other
leader        takes the lease, and keeps the engine at work while it holds it
orders        makes commands for whoever asks
rollouts      many commands in stages, with a brake
auth          roles and tokens
config        the settings, from environment variables
app           the program: API, leader, systemd's watchdog
doctor        what is wrong on this server, and what to do
hands         what an administrator does on the server itself
store/        the database
api/          HTTP
ctl/          the command line, which knows the controller by its API only
"""
