"""Baby Dragon Hatchling, linear attention over sparse neurons."""
