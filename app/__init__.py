"""Who runs it: command line, settings, wiring, model back ends, stores."""
