"""Search spaces, and searches in them with Optuna."""
