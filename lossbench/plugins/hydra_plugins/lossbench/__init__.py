"""lossbench as Hydra sees it: a callback before a run, and a sweeper."""
