"""Hyperparameters that follow a course over the training: `loss.gamma={from: 0, to: 2, over: 0.5}`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

Shape = Literal["linear", "cosine"]


@dataclass(frozen=True)
class CourseOptions:
    """What a course is written with, beside `from` and `to`.

    Attributes:
        over: how long it takes: up to 1 a share of the run, above it so many optimizer steps.
        shape: of the way between the two.
    """

    over: Annotated[float, "(0, inf)"] = 1.0
    shape: Shape = "linear"


@dataclass(frozen=True)
class Course:
    """From `start` at the first step to `end` at the step `steps`, and `end` from there on."""

    start: float
    end: float
    steps: int
    shape: Shape = "linear"

    @classmethod
    def of(cls, start: float, end: float, options: CourseOptions, run: int) -> Course:
        """A course within a run of so many steps."""
        steps = options.over * run if options.over <= 1 else options.over
        return cls(start, end, max(1, round(steps)), options.shape)

    def __call__(self, step: int) -> float:
        """The value at a step, from 1."""
        share = min(1.0, (step - 1) / max(1, self.steps - 1)) if step < self.steps else 1.0
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share


class Moving:
    """A loss function some of whose hyperparameters follow a course; a function of the step alone.

    Args:
        courses: by the name of the hyperparameter.
        path: where the config has them, such as `loss`.
    """

    def __init__(self, function: Callable[..., Any], courses: Mapping[str, Course], path: str = "loss") -> None:
        self.function, self.courses = function, dict(courses)
        self.keys = tuple(f"{path}.{name}" for name in courses)
        self.begin(1)

    def begin(self, step: int) -> None:
        """Stand at this step."""
        self.now = {name: course(step) for name, course in self.courses.items()}

    def __call__(self, *fields: Any, **more: Any) -> Any:
        return self.function(*fields, **more, **self.now)


def standing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A loss function without the courses that its hyperparameters follow."""
    return function.function if isinstance(function, Moving) else function
