"""What runs a search: Ray, the machines, the time, and all checks before it starts. Knows no command line."""
