"""Package data: what papers print, one YAML file per paper."""
