"""Sweeps: which jobs there are, which are still to be run and where, and what became of them."""

from lossbench.sweep.expand import jobs, labels, options_loader, swept, unique

__all__ = ["jobs", "labels", "options_loader", "swept", "unique"]
