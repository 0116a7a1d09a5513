"""The engine: plain arguments in, rows out. Observers cannot change what it does."""

from lossbench.engine.average import Average, Averaged, refresh_batch_norm
from lossbench.engine.best import Best
from lossbench.engine.checkpoints import Checkpoints
from lossbench.engine.evaluate import evaluate
from lossbench.engine.guard import Guard, choose_gate
from lossbench.engine.objective import Objective, Part, Term, reduce
from lossbench.engine.precision import LossScale, autocast
from lossbench.engine.record import Incident, Metrics, Recorder, StepRow
from lossbench.engine.step import Clip, Player
from lossbench.engine.train import Length, train

__all__ = [
    "Average",
    "Averaged",
    "Best",
    "Checkpoints",
    "Clip",
    "Guard",
    "Incident",
    "Length",
    "LossScale",
    "Metrics",
    "Objective",
    "Part",
    "Player",
    "Recorder",
    "StepRow",
    "Term",
    "autocast",
    "choose_gate",
    "evaluate",
    "reduce",
    "refresh_batch_norm",
    "train",
]
