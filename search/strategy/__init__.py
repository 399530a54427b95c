"""Decides what to train next, and how far: models of what trials have shown. Knows no storage, Ray or torch."""
