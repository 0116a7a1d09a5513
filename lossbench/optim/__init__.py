"""Optimizers are torch's own; what is ours is how their rates move."""

from lossbench.optim.groups import OptimOptions
from lossbench.optim.schedule import Schedule, SchedulerOptions

__all__ = ["OptimOptions", "Schedule", "SchedulerOptions"]
