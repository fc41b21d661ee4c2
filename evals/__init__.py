"""How good is it: data sets, splits, protocol, metrics, baselines, statistics, reports."""
