"""What the controller costs, beside a bare subscriber that writes the same rows."""
