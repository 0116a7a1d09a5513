"""What follows a step that was not finite: the run ends, goes on without it, or returns to a checkpoint.

The host looks at the recorded steps every so often, and at once where the guard saw something. A loss or a gradient
that was not finite never reached the parameters. An update can still overflow by itself (a huge rate): so each look
also asks whether parameters, moments and buffers are finite, and where they are not, the steps since the last look are
run again from a copy of the state, one by one, until the one that did it. What a step draws at random depends on the
step alone, so a step that is run again is the same step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossbench.data import Batches
from lossbench.engine.blame import Finding, Kind, explain
from lossbench.engine.checkpoints import Checkpoints
from lossbench.engine.random_state import random_state, set_random_state
from lossbench.engine.record import Incident, Metrics, Recorder, StepRow, step_row
from lossbench.engine.step import Player
from lossbench.engine.tree import all_finite, cloned, tensors
from lossbench.errors import CheckpointError, Diverged, plural

EXPLAINED = 20  # steps of a run that are run again for a report


class Recovery:
    """Looks at what was recorded, and decides from which step the training goes on.

    Args:
        checkpoints: where `rollback` returns to.
    """

    def __init__(
        self, player: Player, batches: Batches, recorder: Recorder, checkpoints: Checkpoints | None = None
    ) -> None:
        self.player, self.batches, self.recorder, self.checkpoints = player, batches, recorder, checkpoints
        self.guard = player.guard
        self.explained = 0
        self.loss_scale = self.guard.scale.scaler.get_scale()
        self.state: dict[str, Any] = {}
        self.random = random_state()
        self.names: dict[Any, str] = {p: name for module in player.modules for name, p in module.named_parameters()}
        # Some buffers hold infinities on purpose, such as an attention mask.
        self.buffers = [name for name, buffer in self._buffers() if all_finite([buffer])]

    def remember(self) -> None:
        """Keep a copy of the state, which was found finite: the way back to it after a bad update."""
        if self.guard.policy != "off":
            self.state = {}  # let the old copy go before the new one is made
            self.state, self.random = cloned(self.player.state()), random_state()

    def look(self, step: int) -> int:
        """Fetch what was recorded up to `step` and write it; the step that the training goes on from.

        Raises:
            Diverged: the policy ends the run; the state is that before the first bad step.
        """
        rows, finding = self.recorder.fetch(), None
        self.guard.urgent = False
        if self.guard.policy != "off" and not all_finite([tensor for _, tensor in self._watched()]):
            rows, finding = self._run_again(rows)
            step = rows[-1].step
        self.recorder.write(rows)
        for row in rows:
            reached = self._judge(row, finding if row is rows[-1] else None)
            if reached is not None:
                return reached
        return step

    def look_at_outputs(self, step: int, metrics: Metrics) -> int:
        """Look at an evaluation: finite parameters can still give outputs that are not.

        Raises:
            Diverged: no metric is a number, and the policy ends the run.
        """
        if self.guard.policy == "off" or not all(math.isnan(value) for value in metrics.values()):
            return step
        return self._end(f"step {step}: the model's outputs are not finite; try a lower optim.lr")

    def _judge(self, row: StepRow, finding: Finding | None) -> int | None:
        """Count a row and act on it; the step to go on from, if it is another."""
        guard, scale = self.guard, self.guard.scale
        nonfinite = row.skipped == "nonfinite" and guard.policy != "off"
        guard.in_a_row = guard.in_a_row + 1 if row.skipped in ("overflow", "nonfinite") else 0
        too_low = scale.enabled and row.loss_scale < scale.floor
        too_many = nonfinite and guard.policy == "skip" and guard.in_a_row > guard.max_skips
        lowered, self.loss_scale = row.loss_scale < self.loss_scale, row.loss_scale
        hit = nonfinite and guard.policy != "skip" and not lowered  # a lower scale may help, down to its floor
        if not (too_low or too_many or hit):
            if nonfinite or finding is not None:
                self._report(row, finding, "skip" if nonfinite else "repeat")
            return None
        blame = self._report(row, finding, "rollback" if self._may_go_back() else "abort")
        if too_low:
            overflows = plural(guard.in_a_row, "overflow")
            return self._end(
                f"step {row.step}: the loss scale fell to {row.loss_scale:g} after {overflows} in a row ({blame}); "
                "try trainer.precision=bf16 or a lower optim.lr"
            )
        if too_many:
            return self._end(
                f"step {row.step}: {plural(guard.in_a_row, 'step')} in a row were not finite "
                f"(trainer.max_skips={guard.max_skips}); {blame}"
            )
        return self._end(f"step {row.step}: {blame}; try a lower optim.lr or trainer.clip_norm=1")

    def _may_go_back(self) -> bool:
        return self.guard.policy == "rollback" and self.guard.rollbacks < self.guard.max_rollbacks

    def _end(self, text: str) -> int:
        """End the run, or, under `rollback`, return to the last checkpoint at a lower rate."""
        guard = self.guard
        if self.checkpoints is None or not self._may_go_back():
            bound = f" (after {plural(guard.rollbacks, 'rollback')})" if guard.rollbacks else ""
            raise Diverged(text + bound)
        rollbacks, factors = guard.rollbacks + 1, [schedule.factor for schedule in self.player.schedules]
        try:
            step, progress = self.checkpoints.back()
        except CheckpointError as error:
            raise Diverged(f"{text}; and there is no way back: {error}") from error
        guard.rollbacks = rollbacks
        self.loss_scale = guard.scale.scaler.get_scale()
        for schedule, factor in zip(self.player.schedules, factors, strict=True):  # the checkpoint has an older one
            schedule.slow_down(factor * guard.rollback_factor)
        self.recorder.rewind(step, progress)
        return step

    def _run_again(self, rows: Sequence[StepRow]) -> tuple[list[StepRow], Finding | None]:
        """Find the step since the last look whose update was not finite, and stand before it.

        Returns:
            The rows up to that step, which is not taken; all of them where every update was finite this time.
        """
        player, found = self.player, []
        player.load(self.state)
        set_random_state(self.random)
        for row in rows:
            before = cloned(player.state())
            player.begin(row.step)
            lr, settings = player.lr, player.settings
            values = player.step(self.batches.at(row.step)).tolist()
            again = step_row(row.step, row.epoch, lr, values, settings)
            found.append(again)
            bad = [name for name, tensor in self._watched() if not all_finite([tensor])]
            if bad:
                kind: Kind = "nan" if any(bool(t.isnan().any()) for _, t in self._watched()) else "inf"
                player.load(before)
                found[-1] = again._replace(skipped="nonfinite")
                return found, Finding("update", bad[0], kind, (), tuple(bad))
            if again.skipped == "nonfinite":
                return found, None
        return found, Finding("nothing", "", "", (), ())

    def _report(self, row: StepRow, finding: Finding | None, action: str) -> str:
        """Say what happened at a step, and why, to the recorder; the same in a few words."""
        self.explained += 1
        symptom = _symptom(row)
        if self.explained > EXPLAINED:
            return symptom
        micro_batches = self.batches.at(row.step)
        finding = finding or explain(self.player, row.step, micro_batches)
        rows = self.batches.split.rows
        finding = replace(finding, examples=tuple(rows[list(finding.examples)].tolist()))
        text = f"{symptom}: {finding}"
        self.recorder.incident(
            Incident(
                row=row,
                action=action,
                place=finding.place,
                name=finding.name,
                kind=finding.kind,
                deterministic=finding.place != "nothing",
                batch=tuple(rows[torch.cat([batch["index"] for batch in micro_batches]).cpu()].tolist()),
                examples=finding.examples,
                parameters=finding.parameters,
                text=text,
            )
        )
        return text

    def _watched(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters, the optimizers' moments, and the buffers that were finite at the start, with names."""
        yield from ((self.names[p], p) for p in self.player.parameters)
        for optimizer in self.player.optimizers:
            for parameter, state in optimizer.state.items():
                moments = state.items() if parameter in self.names else ()  # some optimizers keep a state of their own
                for key, value in moments:
                    for tensor in tensors(value):  # L-BFGS keeps lists
                        if tensor.is_floating_point() and tensor.numel() > 1:
                            yield f"{key} of {self.names[parameter]}", tensor
        found = dict(self._buffers())
        yield from ((name, found[name]) for name in self.buffers if name in found)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for module in self.player.modules:
            yield from ((name, buffer) for name, buffer in module.named_buffers() if buffer.is_floating_point())


def _symptom(row: StepRow) -> str:
    if not math.isfinite(row.loss):
        return f"the loss is {row.loss}"
    if math.isfinite(row.grad_norm):
        return f"the loss is {row.loss:g}, the gradient norm {row.grad_norm:g}, the rate {row.lr:g}"
    return f"the gradient norm is {row.grad_norm} (the loss is {row.loss:g})"
