"""Measurements: `make bench` prints what this machine does, and ratios that can be compared between machines."""
