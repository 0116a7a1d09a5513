"""The commands on a config or on a run's directory, beside training."""
