"""Shows a study to people and scripts: tables, sentences, JSON, the dashboard. Changes nothing; knows no Ray."""
