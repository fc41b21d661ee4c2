"""Suites: which runs make a set of tables and figures, as YAML, and what makes those runs and nothing twice."""
