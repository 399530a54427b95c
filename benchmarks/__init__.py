"""Measurements of tinysearch itself: how good its searches are and what they cost, each one command."""
