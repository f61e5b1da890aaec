"""The client: from a command on MQTT to a reboot that is proved by the kernel's boot id.

lifecycle   states, events and what is legal                                     pure
policy      may we, now?                                                         pure
boots       why the boot before this one ended                                   pure
health      facts in, health out                                                 pure
journal     SQLite: what was promised and what is owed
disk        the state's directory: room kept for bad times, files set aside
recovery    opens the journal whatever is found
ledger      enters each step of a command, with the ack it owes
outbox      delivers what is owed, in order
agent       event -> decide -> commit -> act: the one place where order matters
checks      what must run on the host after a boot
monitor     what the agent says unasked: health, boot report, which alerts stand
host        helper, logind, systemd and timedated over D-Bus
bus         a connection to the system bus; the only import of dbus-next here
boot        boot id, boot clock, clock synchronisation, machine id
config      the environment, read once
lasting     whether state and machine id are still there after a reboot
alerts      the units that systemd gave up on, on file for this boot
notify_failure  says so to the controller; a program of its own
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
