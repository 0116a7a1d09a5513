"""Arms with equal budgets: tuned on validation, measured on fresh seeds."""
