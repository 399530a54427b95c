"""Trains the best trials again with other seeds, and compares the results. Knows no Ray."""
