"""The server's side: what became of every command, from `queued` to its verdict.

lifecycle     every state of a command and what moves it on     pure
safety        may it go out now? each rule a function           pure
windows       when a maintenance window is open                 pure
selection     selectors, and the hash of a preview              pure
presence      who is online, whatever the order of statuses     pure
inventory     the list of clients as a file                     pure
text          what people may write into names and reasons      pure
dispatch      the bytes of a command, and when to ask again     pure
ingest        bytes from clients become facts
engine        speaks with the broker, where the lease is
orders        makes commands for whoever asks
auth          roles and tokens
config        the settings, from environment variables
store/        the database
api/          HTTP
"""
