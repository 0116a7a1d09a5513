"""What torch's own optimizers and schedules do not say of their arguments: intervals, and advice for a 0."""

from __future__ import annotations

RANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "optim": {
        "lr": ("(0, inf)", "nothing would be learned"),
        "weight_decay": ("[0, inf)",),
        "betas": ("[0, 1)",),
        "eps": ("[0, inf)",),
        "momentum": ("[0, 1)",),
        "dampening": ("[0, 1]",),
        "alpha": ("[0, 1)",),
    },
    "scheduler": {
        "step_size": ("[1, inf)",),
        "gamma": ("(0, inf)",),
        "T_max": ("[1, inf)",),
        "eta_min": ("[0, inf)",),
        "total_steps": ("[1, inf)",),
        "max_lr": ("(0, inf)",),
        "pct_start": ("[0, 1]",),
        "div_factor": ("(0, inf)",),
        "final_div_factor": ("(0, inf)",),
        "factor": ("(0, 1]",),
        "patience": ("[0, inf)",),
        "cooldown": ("[0, inf)",),
        "min_lr": ("[0, inf)",),
    },
}
