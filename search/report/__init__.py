"""A study shown to people and scripts: tables, sentences, documents, the dashboard. Changes nothing; knows no Ray."""
