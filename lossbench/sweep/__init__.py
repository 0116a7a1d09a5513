"""Sweeps: which jobs there are, which are still to be run and where, and what became of them."""
