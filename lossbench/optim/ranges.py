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
        "differentiable": Literal[False],  # it is for a step within a larger graph,
        "capturable": Literal[False],  # this for CUDA graphs: there are neither here,
        "maximize": Literal[False],  # and losses are minimised
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
        "Muon.adjust_lr_fn": Literal["original", "match_rms_adamw", None],
    },
    "scheduler": {
        "max_lr": ("(0, inf)",),
        "base_lr": NotNegative,
        "min_lr": NotNegative,
        "eta_min": NotNegative,
        "gamma": ("(0, inf)",),
        "total_iters": Count,
        "total_steps": Count,
        "step_size": Count,
        "milestones": Count,
        "T_max": Count,
        "T_0": Count,
        "T_mult": Count,
        "ConstantLR.factor": ("(0, 1]",),
        "LinearLR.start_factor": ("(0, 1]",),
        "LinearLR.end_factor": ("[0, 1]",),
        "PolynomialLR.power": ("(0, inf)",),
        "ReduceLROnPlateau.mode": Literal["min", "max", None],
        "ReduceLROnPlateau.factor": ("(0, 1)",),
        "ReduceLROnPlateau.patience": NotNegative,
        "ReduceLROnPlateau.threshold": NotNegative,
        "ReduceLROnPlateau.cooldown": NotNegative,
        "ReduceLROnPlateau.eps": NotNegative,
        "CyclicLR.mode": Literal["triangular", "triangular2", "exp_range"],
        "CyclicLR.step_size_up": Count,
        "CyclicLR.step_size_down": Count,
        "CyclicLR.base_momentum": Share,
        "CyclicLR.max_momentum": Share,
        "OneCycleLR.pct_start": Share,
        "OneCycleLR.base_momentum": Share,
        "OneCycleLR.max_momentum": Share,
        "OneCycleLR.div_factor": ("(0, inf)",),
        "OneCycleLR.final_div_factor": ("(0, inf)",),
    },
}
