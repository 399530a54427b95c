"""Defines what may be trained: a guide's ranges, rules and advice, read from YAML. Knows no Optuna, Ray or torch."""
