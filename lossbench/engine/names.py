"""What the parameters of a run are called."""

from __future__ import annotations

from torch import nn

from lossbench.engine.objective import Objective
from lossbench.engine.watch import root
from lossbench.optim.groups import Named, named_in


def named_parameters(model: nn.Module, objective: Objective) -> list[Named]:
    """Every parameter once: the model's, by its own names, then those of the losses, after the loss's name."""
    found = named_in(root(model))
    known = {named.parameter for named in found}
    for leaf in (leaf for part in objective.parts for leaf in part.leaves()):
        if isinstance(leaf.function, nn.Module):
            own = named_in(leaf.function, f"{leaf.name}.", of_loss=True)
            found += [named for named in own if named.parameter not in known]
            known |= {named.parameter for named in own}
    return found
