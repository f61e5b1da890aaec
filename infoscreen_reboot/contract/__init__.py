"""What travels between a fleet controller and a client, contract version 1.0.

topics      where each message goes
command     what the controller asks for
ack         what the client answers
telemetry   what the client says of itself
signature   how a signed command says who signed what
wire        the rules all payloads share: JSON, times, UUIDs, schemas
"""
