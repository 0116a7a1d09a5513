"""Observers: they get rows after the fact, and cannot change the training."""
