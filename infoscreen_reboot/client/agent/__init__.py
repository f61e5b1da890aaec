"""The daemon: it takes commands from MQTT and proves each reboot by the kernel's boot id.

lifecycle    the states of a command, the events, and which steps are legal       pure
policy       may this command be executed now?                                    pure
boot_report  why the boot before this one ended                                   pure
health       builds the health report from facts                                  pure
store        SQLite: the commands, the boots, and the messages still to deliver
recovery     opens the store, also a damaged one, and on a full disk
ledger       writes each step of a command to the store, together with its ack
outbox       delivers these messages, in order
agent        event -> decide -> commit -> act: the one place where order matters
post_boot    checks what must run on the host after a boot
monitor      what is reported without being asked: health, boot report, alerts
presence     the retained status
ports        the interfaces to host, clock, keys and broker
host         helper, logind, systemd and timedated over D-Bus
bus          a connection to the system bus; the only import of dbus-next here
app          puts the parts together and keeps systemd's watchdog fed
"""
