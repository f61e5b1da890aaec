"""What goes wrong in a fleet, played on real machines, and what the controller says of it.

__main__    `tools/drill`: the drills one after the other, and the table
drills      each fault, how it is made, and the verdict that has to come
histogram   how long clients were away, in bars    pure
"""
