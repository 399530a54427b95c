"""The process that trains a trial: its checkpoints, its text, its GPU lock. Knows no Optuna, Ray or study."""
