"""What a model of each family is: one frozen dataclass a file, without torch."""
