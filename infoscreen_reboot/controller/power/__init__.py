"""The power of clients: ports of switches, which are switched off and on again, and are never left off.

port      what an inventory says of a port                                    pure
cycle     every state of a power cycle, and whether one may begin             pure
outlet    which backend switches a port; what all of them promise
snmp      a PoE port of a switch, by the commands of net-snmp (RFC 3621)
hook      whatever an executable of the administrator can switch
program   runs what they need, for a bounded time
worker    carries cycles out, and switches on again what is owed
"""
