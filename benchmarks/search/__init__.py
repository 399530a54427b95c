"""How well search strategies do on recorded learning curves: `python -m benchmarks.search FOLDER`.

A table holds only the configurations that were recorded, so a trial trains the nearest of those that its run has not
trained yet, and every policy is told at once which one (`Policy.given`), before it is asked or told anything else. In
a real search a strategy knows what was trained; one that was not told here would learn from pairs of a configuration
and another one's value. This holds for all policies alike: Optuna's studies, the one inside Ray's OptunaSearch and the
controller's record hold what was trained in place of what was proposed. Random ones propose recorded configurations.
"""
