"""What the client costs, measured beside what it stands on and beside its peers."""
