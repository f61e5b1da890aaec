"""Remote reboot and shutdown of digital-signage clients that can be trusted.

contract/   what travels between controller and client; imports neither
mqtt        a session with the broker, connected again whenever it is lost
connection  one connection, driven by the asyncio loop
broker      where it is, what goes to and fro, what its refusals mean
paho_client the client of 1.6 and of 2.x, in MQTT 5 and in 3.1.1; the only import of paho
tls         certificate and host name are verified, always
signing     signs commands and checks signatures; the only import of cryptography
agent/      the client: from a command on MQTT to a reboot proved by the kernel's boot id
"""

__version__ = "0.1.0"
