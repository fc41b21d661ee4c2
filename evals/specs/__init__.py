"""Package data: one YAML file per data set."""
