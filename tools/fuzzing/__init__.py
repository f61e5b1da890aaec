"""What nobody should send, millions of times."""
