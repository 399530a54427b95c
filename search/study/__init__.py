"""A study: its settings, the record of its trials, and every decision. Knows no Ray, torch or clock."""
