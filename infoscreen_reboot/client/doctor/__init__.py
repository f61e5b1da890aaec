"""Says whether a remote reboot would work on this host, and what to do if not.

judgement  what is wrong, and what to do about it             pure
finding    one line of the report                             pure
tuning     whether systemd uses the package's values          pure
firmware   what only the owner of a Raspberry Pi may set      pure
survey     asks systemd, the bus, /proc and /sys
probe      judges the broker, as the agent's user
visit      asks the broker
"""
