"""All that runs on the screen's host: the agent that executes commands, and the programs around it.

agent/     the daemon
doctor/    would a remote reboot work on this host?
notifier/  tells the controller that systemd gave up on a unit
cli        the command line for people on the machine; like the agent's `app` it puts things together
config     reads the settings from the environment, once
kernel     boot id, boot clock, clock synchronisation, machine id
lasting    whether state and machine id are still there after a reboot
disk       the state directory: is it full, the reserve, files that were set aside
greeting   the client id and the will, as agent and doctor send them
alerts     one file for each unit that systemd gave up on in this boot
log        writes to systemd's journal
"""
