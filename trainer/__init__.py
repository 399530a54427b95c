"""Trains a model: one loop for every family, usable alone. Imports neither search, Ray, Optuna nor YAML."""
