"""Runs a search: Ray, the machines, the time limit, and all checks before the start. Knows no command line."""
