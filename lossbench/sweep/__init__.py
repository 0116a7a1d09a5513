"""Sweeps: which jobs there are, which are still to be run and where, and what became of them."""

from lossbench.sweep.expand import jobs, labels, names, options_loader, unique

__all__ = ["jobs", "labels", "names", "options_loader", "unique"]
