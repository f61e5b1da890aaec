"""The client: from a command on MQTT to a reboot that is proved by the kernel's boot id.

lifecycle   states, events and what is legal                                     pure
policy      may we, now?                                                         pure
journal     SQLite: what was promised and what is owed
outbox      delivers what is owed, in order
agent       event -> decide -> commit -> act: the one place where order matters
host        helper and logind over D-Bus; the only import of dbus-next here
boot        boot id, boot clock, clock synchronisation, machine id
config      the environment, read once
log         what the journal of the system shows
cli         for people on the machine
doctor      what is wrong, and what to do about it                               pure
finding     one line of the doctor's report                                      pure
tuning      whether systemd goes by the package's values                         pure
firmware    what only the owner of a Raspberry Pi may set                        pure
survey      asks systemd, the bus, /proc and /sys for the doctor
probe       asks the broker for the doctor, as the agent's user
app         puts it together and keeps systemd's watchdog fed
"""
