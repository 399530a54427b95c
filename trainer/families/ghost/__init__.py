"""Bytes through Mamba blocks, which bytes that are easy to predict skip."""
