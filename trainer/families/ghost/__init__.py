"""Mamba blocks over bytes; bytes that are easy to predict skip them."""
