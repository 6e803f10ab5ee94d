"""The REST API and what comes with it: authentication, errors, health, test targets, reference."""
