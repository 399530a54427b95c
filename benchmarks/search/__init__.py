"""How well search strategies do on recorded learning curves: `python -m benchmarks.search FOLDER`.

A table holds only the configurations that were recorded, so a trial trains the nearest of those that its run has not
trained yet, and every policy learns at once which one (`Policy.given`), before any other call. In a real search a
strategy knows what was trained; without this call it would learn from pairs of a configuration and another one's value.
This holds for all policies: Optuna's studies, the one inside Ray's OptunaSearch and the controller's record contain
what was trained instead of what was proposed. Random ones propose recorded configurations.
"""
