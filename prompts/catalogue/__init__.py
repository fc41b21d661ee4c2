"""Package data: every sentence a model reads."""
