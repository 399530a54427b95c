"""How well search strategies do on recorded learning curves: `python -m benchmarks.search FOLDER`."""
