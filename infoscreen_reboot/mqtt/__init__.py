"""A session with an MQTT broker. It knows neither side.

session      one client id, connected again whenever the connection is lost
connection   one connection, driven by the asyncio loop
consumer     takes many messages at once, and acknowledges what is stored; for a thread
settings     the way to the broker, from environment variables
messages     where the broker is, what goes to and fro, what its refusals mean
packets      MQTT's own bytes, for what speaks it without paho; pure
paho_client  the client of 1.6 and of 2.x, in MQTT 5 and in 3.1.1; the only import of paho
tls          certificate and host name are verified, always
"""
