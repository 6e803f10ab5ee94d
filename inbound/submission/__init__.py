"""The edge at which customers hand in mail to be sent: SMTP with TLS and a login (RFC 6409, RFC 8314)."""
