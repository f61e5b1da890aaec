"""Remote reboot and shutdown of digital-signage clients that can be trusted.

contract/   what travels between controller and client                              both sides
mqtt/       a session with a broker                                                both sides
signing     signs commands and checks signatures; the only import of cryptography  both sides
client/     the screen's side
"""

__version__ = "0.1.0"
