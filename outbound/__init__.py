"""The sending edge: mail that customers hand in, delivered by MX. Nothing of it is built yet."""
