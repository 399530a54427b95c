"""From the user's files to documents and their split, each step a function of the one before.

names and formats -> sources -> documents -> split. Nothing here knows a vocabulary, a model or a cache.
"""
