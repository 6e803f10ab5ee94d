"""The SMTP side: sessions, what is refused while the sender waits, and when mail is ours to keep."""
