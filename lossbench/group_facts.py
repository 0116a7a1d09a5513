"""The parameter groups of a run as `summary.json`, the screen and `lossbench check` show them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.optim import Optimizer

from lossbench.engine.record import StepRow
from lossbench.optim.groups import Group


@dataclass(frozen=True)
class GroupFacts:
    """One parameter group.

    Attributes:
        parameters: how many numbers it has.
        lr: the rate of the first step; null where it is never trained, and where it is still to be found.
        weight_decay: null where the optimizer has none.
        frozen: whether it is never trained.
        unfreeze: the epoch at whose beginning it is trained for the first time, where that is not the first.
    """

    name: str
    parameters: int
    lr: float | None
    weight_decay: float | None
    frozen: bool
    unfreeze: int | None


def group_facts(
    groups: Sequence[Group], optimizers: Sequence[Optimizer], unknown: Collection[str] = ()
) -> tuple[GroupFacts, ...]:
    """The groups as the optimizers hold them, then those that are frozen for good.

    An optimizer of the user's own may hold a group of no parameters, or parameters that it made for itself.

    Args:
        unknown: the names of those whose rate is still to be found.
    """
    of_parameter = {parameter: group for group in groups for parameter in group.parameters}
    held = [found for optimizer in optimizers for found in optimizer.param_groups]
    return (
        *(
            GroupFacts(
                name=found["name"],
                parameters=sum(p.numel() for p in found["params"]),
                lr=None if found["name"] in unknown else float(found["lr"]),
                weight_decay=found.get("weight_decay"),
                frozen=False,
                unfreeze=next((of_parameter[p].unfreeze for p in found["params"] if p in of_parameter), None),
            )
            for found in held
        ),
        *(
            GroupFacts(group.name, sum(p.numel() for p in group.parameters), None, None, frozen=True, unfreeze=None)
            for group in groups
            if group.freeze
        ),
    )


def at_the_end(facts: Sequence[GroupFacts], columns: Sequence[str], last: StepRow | None) -> list[dict[str, Any]]:
    """The groups with `lr_end`, their rate in the last step that was recorded.

    Args:
        columns: what a step's `details` are called.
    """
    rates = dict(zip(columns, last.details, strict=True)) if last else {}
    alone = last.lr if last else None  # one group has no column of its own

    def rate(group: GroupFacts) -> float | None:
        return None if group.frozen else rates.get(f"lr/{group.name}", alone)

    return [{**asdict(group), "lr_end": rate(group)} for group in facts]
