"""The search service: a space becomes a study, Ray places its trials, the brain decides. docs/design.md is the map."""
