"""Background work: claiming what is due, doing the I/O, recording what came of it. RQ only wakes it."""
