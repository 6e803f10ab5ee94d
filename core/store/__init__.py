"""The store: database, migrations, models, queries, and the blobs that are too large for a row."""
