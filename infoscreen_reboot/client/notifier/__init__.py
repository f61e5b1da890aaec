"""Tells the controller that systemd gave up on a unit; a program of its own.

notify_failure  waits for the outcome, then delivers the alert
"""
