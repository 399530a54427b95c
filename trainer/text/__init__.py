"""From the user's files to the parts of a split text: one way, each step a function of the one before.

`open_corpus` in trainer/data.py calls the steps in this order:

1. sources.py finds the files behind the paths; formats.py tells from a name what a file holds.
2. collection.py writes the documents of all files into one file, and notes the size and digest of each and the part
   that its name asks for (names.py). documents.py reads them as UTF-8, with streams.py, records.py and encoding.py.
3. split.py decides which documents, or ends of them, are held out.
4. parts.py writes a file for each part, and marks places in the held-out one.
5. trainer/tokenizer.py turns the parts into tokens, if the vocabulary is larger than bytes.
6. trainer/cache.py keeps the parts, and maps them into memory as a corpus.

For files of tokens, tokens.py takes the place of steps 2 and 4. units.py is used later: it converts counts of tokens
between vocabularies. Nothing here knows a model or the cache.
"""
