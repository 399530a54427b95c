"""The model families: each is one folder here, with its config, its model, what it costs, and its descriptor."""
