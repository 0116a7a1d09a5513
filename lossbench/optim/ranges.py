"""What torch's own optimizers and schedules do not say of their arguments: intervals, and advice for a 0.

As `signatures.noted` takes it: by an option's name, or by a class and its option where the name means other things to
other classes, which a user's own may be.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

Positive = Annotated[float, "(0, inf)"]
Share = ("[0, 1)",)
Count = ("[1, inf)",)
NotNegative = ("[0, inf)",)

RANGES: dict[str, dict[str, Any]] = {
    "optim": {
        "lr": ("(0, inf)", "nothing would be learned"),
        "weight_decay": NotNegative,
        "betas": Share,
        "eps": NotNegative,
        "momentum": Share,
        "SGD.dampening": Share,
        "Adagrad.lr_decay": NotNegative,
        "Adagrad.initial_accumulator_value": NotNegative,
        "RMSprop.alpha": Share,
        "Adadelta.rho": Share,
        "NAdam.momentum_decay": NotNegative,
        "ASGD.lambd": NotNegative,
        "ASGD.alpha": NotNegative,
        "ASGD.t0": NotNegative,
        "Rprop.etas": tuple[Annotated[float, "(0, 1)"], Annotated[float, "(1, inf)"]],
        "Rprop.step_sizes": tuple[Positive, Positive],
        "LBFGS.max_iter": Count,
        "LBFGS.max_eval": Count,
        "LBFGS.tolerance_grad": NotNegative,
        "LBFGS.tolerance_change": NotNegative,
        "LBFGS.history_size": Count,
        "LBFGS.line_search_fn": Literal["strong_wolfe", None],
        "Adafactor.beta2_decay": ("(-inf, 0]",),
        "Adafactor.eps": tuple[Annotated[float | None, "(0, inf)"], Annotated[float, "[0, inf)"]],
        "Adafactor.d": Count,
        "Muon.ns_steps": ("[1, 99]",),
        "Muon.adjust_lr_fn": Literal["original", "match_rms_adamw", "spectral_unclamped", None],
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
