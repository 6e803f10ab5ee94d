"""What sending needs of the core: domains and their keys, return paths, what comes back, tracking."""
