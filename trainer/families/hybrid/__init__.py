"""Gated state-space blocks around one attention block."""
