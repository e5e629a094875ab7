"""Whether a training is healthy: checks with thresholds, held-out pairs, alarms."""
