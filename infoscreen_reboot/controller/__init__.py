"""The server's side: what became of every command, from `queued` to its verdict.

lifecycle     every state of a command and what moves it on     pure
"""
