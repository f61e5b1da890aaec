"""The daemon: from a command to a reboot that is proved by the kernel's boot id.

lifecycle    states, events and what is legal                                     pure
policy       may we, now?                                                         pure
boot_report  why the boot before this one ended                                   pure
health       facts in, health out                                                 pure
store        SQLite: what was promised and what is owed
recovery     opens the store whatever is found
ledger       enters each step of a command, with the ack it owes
outbox       delivers what is owed, in order
agent        event -> decide -> commit -> act: the one place where order matters
post_boot    what must run on the host after a boot
monitor      what the agent says unasked: health, boot report, which alerts stand
presence     the retained status
ports        what the agent needs of the world
host         helper, logind, systemd and timedated over D-Bus
bus          a connection to the system bus; the only import of dbus-next here
app          puts it together and keeps systemd's watchdog fed
"""
