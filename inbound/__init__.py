"""The receiving edge: SMTP in, parsed payloads out to each address's target."""
