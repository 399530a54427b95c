"""The model families: each is one folder here, with its config, its model, its costs, and its descriptor."""
