"""What every other room stands on: settings, names, routing, the delivery state machine and the store.

Nothing here imports Flask, aiosmtpd, RQ, requests or smtplib (`tests/test_architecture.py` holds that).
"""
