"""What the client and the controller cost, measured beside what they stand on and beside their peers."""
