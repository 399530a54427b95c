"""The search service: a space becomes a study, and Ray runs its trials. docs/design.md is the map."""
