"""The best trials trained again with other seeds, and what their spread says. Knows no Ray."""
