"""Debian machines to test on, and the runner that sends each test to where it belongs.

runner     `tools/test`: what runs where, and the totals
tree       the work tree in Debian's hands: the workshop of each suite, the package built there (`tools/build`)
roots      Debian roots, made once and kept
scratch    a throw-away root on such layers
container  one with real systemd
machine    one with the package and a broker
vm         the same with a kernel of its own
screen     what these two have in common
mosquitto  the broker, and a listener
notify     systemd's readiness protocol
debian     where Debian's and the fleet's tools are tried
patience   waits that a busy machine does not end too early
"""
