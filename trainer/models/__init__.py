"""One family a file; FAMILIES in `registry.py` names them."""
