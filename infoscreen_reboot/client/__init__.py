"""The screen's side: from a command on MQTT to a reboot that is proved by the kernel's boot id.

agent/     the daemon
doctor/    would a remote reboot work on this host?
notifier/  tells the controller that systemd gave up on a unit
cli        for people on the machine; like the agent's `app` it puts things together
config     the environment, read once
kernel     boot id, boot clock, clock synchronisation, machine id
lasting    whether state and machine id are still there after a reboot
disk       the state's directory: room kept for bad times, files set aside
alerts     the units that systemd gave up on, on file for this boot
log        what systemd's journal shows
"""
