"""Where a trial trains: its process, its checkpoints, its text. Knows no Optuna, Ray or study."""
