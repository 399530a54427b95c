"""The search service: a space becomes a study, Ray places its trials, the brain decides. See docs/design.md for the map."""
