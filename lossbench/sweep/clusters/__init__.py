"""Launchers of plugins whose jobs run elsewhere, some at a time."""
