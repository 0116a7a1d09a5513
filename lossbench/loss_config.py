"""Which loss a config names: what it needs, the tasks that it fits, and its hyperparameters, checked.

A loss is plain (fields in, values out), robust (its first parameter is `values`: it goes around one loss) or composed
(its first parameter is `pieces`: it puts losses together). The last two have their losses in `loss.terms`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, get_origin

from lossbench import catalog
from lossbench.engine.course import CourseOptions
from lossbench.errors import ConfigError
from lossbench.losses.marks import FromTraining, QuantileLevel
from lossbench.signatures import bind, convert, hints, no_option, parameters, required, show
from lossbench.targets import FILLED, Call, locate
from lossbench.tasks import TASKS, Task
from lossbench.tasks.output import FIELD, Output

# A user's own loss, and torch's own, call the task's pair by one of these.
STAND_INS = {
    ("input", "target"),
    ("inputs", "targets"),
    ("output", "target"),
    ("outputs", "targets"),
    ("preds", "target"),
    ("y_pred", "y_true"),
}

Kind = Literal["plain", "robust", "composed"]
_KINDS: dict[str, Kind] = {"values": "robust", "pieces": "composed"}
_COURSE = ("from", "to", *(f.name for f in fields(CourseOptions)))
_NAMED = 8  # losses in a message


@dataclass(frozen=True)
class Loss:
    """A loss as the config has it.

    Attributes:
        path: of its keys, such as `loss` or `loss.terms.base`.
        calls: the functions that share its name; the first that fits the task is taken.
        terms: the losses that it is made of, by name.
    """

    name: str
    path: str
    calls: tuple[Call, ...]
    terms: Mapping[str, Loss] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return _kind(self.calls[0].target)

    def inner(self) -> Iterator[Loss]:
        """The losses that it is made of, and those that they are made of."""
        for term in self.terms.values():
            yield term
            yield from term.inner()


@dataclass(frozen=True)
class Ends:
    """A hyperparameter's course as the config has it."""

    start: float
    end: float
    options: CourseOptions


@dataclass(frozen=True)
class Fit:
    """A loss as a task takes it.

    Attributes:
        call: the function, its hyperparameters checked.
        courses: the hyperparameters that follow a course.
        needs: the fields of its own, in the order of its arguments.
    """

    name: str
    path: str
    call: Call
    courses: Mapping[str, Ends]
    needs: tuple[str, ...]
    terms: Mapping[str, Fit]

    @property
    def kind(self) -> Kind:
        return _kind(self.call.target)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that it takes, with those of its terms."""
        found = (name for term in self.terms.values() for name in term.fields)
        return tuple(dict.fromkeys((*self.needs, *found)))

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles that its predictions stand for, as far as it says so."""
        own = [self._level(key) for key in marked(self.call, QuantileLevel)]
        found = own + [term.levels for term in self.terms.values()]
        if () in own:
            raise ConfigError(f"{self.path}.quantiles is empty; each number in it is a quantile to predict")
        several = [levels for levels in found if levels]
        if len(set(several)) > 1:
            listed = " and ".join(str(list(levels)) for levels in several)
            raise ConfigError(f"{self.path}: its terms stand for different quantiles, {listed}")
        return several[0] if several else ()

    def _level(self, key: str) -> tuple[float, ...]:
        value = self.call.values.get(key, parameters(self.call.target)[key].default)
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def read_loss(given: Mapping[str, Any], choices: Mapping[str, str], path: str = "loss") -> Loss:
    """The loss of a config group.

    Raises:
        ConfigError: no such function, one that cannot train, an option that it does not have, or terms that are none.
    """
    name = str(choices.get("loss" if path == "loss" else f"loss@{path}", path.rpartition(".")[2]))
    targets = given.get("_target_")
    found = [locate("loss", target) for target in (targets if isinstance(targets, list) else [targets])]
    _refuse_measures(name, found)
    made = _kind(found[0]) != "plain"
    if not made and "terms" in given and not any("terms" in parameters(target) for target in found):
        raise ConfigError(
            f"loss '{name}' is one loss, and {path}.terms, which a preset may set, are those of loss=sum or "
            "loss=uncertainty; take one of these, or leave the preset out"
        )
    rest = {k: v for k, v in given.items() if k != "_target_" and not (made and k == "terms")}
    calls = [Call(name, target, rest) for target in found]
    for key in rest:
        if not any(key in parameters(call.target) for call in calls):
            bind(path, calls[0].target, {key: rest[key]}, filled=_supplied(calls[0].target), owner=name)
    return Loss(name, path, tuple(calls), _read_terms(given.get("terms"), choices, path) if made else {})


def needs_of(loss: Call, task: type[Task], output: Output | None = None) -> tuple[str, ...] | None:
    """The fields that a loss takes from a task, in the order of its arguments; None where it does not fit.

    A loss of the user's takes what the model gives: the first of the task's pair, or what `output` states.
    """
    needs = tuple(required(called(loss.target)))
    if _kind(loss.target) != "plain":
        return needs[1:] if set(needs[1:]) <= set(task.fields) else None
    if needs in STAND_INS and not set(needs) <= set(task.fields):
        given = FIELD[output] if output else task.pair[0]
        return (given if given in task.fields else task.pair[0], task.pair[1])
    return needs if needs and set(needs) <= set(task.fields) else None


def fit(loss: Loss, task: type[Task], dataset: Call, output: Output | None = None) -> Fit:
    """The loss as the task takes it, its hyperparameters checked.

    Args:
        output: `model.output`, where it is stated.

    Raises:
        ConfigError: it does not fit; the message names losses and presets that do, with commands to copy.
    """
    terms = {key: fit(term, task, dataset, output) for key, term in loss.terms.items()}
    for call in loss.calls:
        needs = needs_of(call, task, output)
        if needs is not None:
            values, courses = _bound(loss, call)
            return Fit(loss.name, loss.path, Call(loss.name, call.target, values), courses, needs, terms)
    raise ConfigError(_misfit(loss, task, dataset))


def check_fit(loss: Loss, dataset: Call) -> None:
    """Refuse a loss that fits none of the data set's tasks, where the data set's card names them."""
    try:
        tasks = [TASKS[name] for name in catalog.card("dataset", dataset.name).fits if name in TASKS]
    except ConfigError:
        return  # a user's own data set: its task is known when it is loaded
    stated = dataset.values.get("task")
    tasks = [TASKS[stated]] if stated in TASKS else tasks
    errors = []
    for task in tasks:
        try:
            fit(loss, task, dataset)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == len(tasks) and errors:
        raise errors[0]


def words(call: Call) -> dict[str, FromTraining]:
    """The hyperparameters that may hold a number per class, or a word such as `balanced`, and what the words mean."""
    return marked(call, FromTraining)


def marked(call: Call, mark: type[Any]) -> dict[str, Any]:
    """The parameters that are annotated with a mark of this type, and the mark."""
    notes = {key: getattr(hint, "__metadata__", ()) for key, hint in hints(call.target).items()}
    return {key: note for key, found in notes.items() for note in found if isinstance(note, mark)}


def called(target: Callable[..., Any]) -> Callable[..., Any]:
    """What is called with the fields: the function itself, or a module's `forward`, without `self`."""
    if not isinstance(target, type):
        return target
    if not hasattr(target, "forward"):
        raise ConfigError(f"loss: {target.__name__} must be a function or a torch.nn.Module with a forward")
    return partial(target.forward, None)


def _kind(target: Callable[..., Any]) -> Kind:
    first = next(iter(required(called(target))), "")
    return _KINDS.get(first, "plain")


def _supplied(target: Callable[..., Any]) -> list[str]:
    """The parameters that are not hyperparameters: what the program calls it with."""
    fields = required(target) if not isinstance(target, type) else []
    return [*FILLED["loss"], *fields, *(["weights"] if _kind(target) == "robust" else [])]


def _read_terms(terms: Any, choices: Mapping[str, str], path: str) -> dict[str, Loss]:
    if terms is not None and not isinstance(terms, Mapping):
        raise ConfigError(f"{path}.terms holds losses by name; add each as +loss@{path}.terms.NAME=LOSS")
    for key, given in (terms or {}).items():
        where = f"{path}.terms.{key}"
        if not re.fullmatch(r"[A-Za-z_]\w*", str(key)):
            raise ConfigError(f"{where}: a term's name is letters, digits and _")
        if not isinstance(given, Mapping) or "_target_" not in given:
            raise ConfigError(f"{where} must be a loss: set loss@{where}=NAME, or +loss@{where}=NAME to add it")
    return {key: read_loss(given, choices, f"{path}.terms.{key}") for key, given in (terms or {}).items()}


def _refuse_measures(name: str, targets: list[Callable[..., Any]]) -> None:
    reasons = [getattr(target, "not_differentiable", None) for target in targets]
    if all(reasons):
        raise ConfigError(f"loss '{name}' cannot train a model: {reasons[0]}")


def _bound(loss: Loss, call: Call) -> tuple[dict[str, Any], dict[str, Ends]]:
    """The hyperparameters against the signature, and those that follow a course.

    The word `auto` leaves one to the function's own default.
    """
    given = {k: v for k, v in call.values.items() if v != "auto" and not _of_another(loss, call, k)}
    supplied = _supplied(call.target)
    own = sorted((given.keys() & set(supplied)) - set(FILLED["loss"]))
    if own:
        raise ConfigError(f"{loss.path}.{own[0]} is a field that the data give, not an option")
    courses = {k: v for k, v in given.items() if isinstance(v, Mapping) and "from" in v}
    fixed = {k: v for k, v in given.items() if k not in courses}
    values = bind(loss.path, call.target, fixed, filled=supplied, owner=loss.name)
    return values, {key: _course(loss, call, key, course) for key, course in courses.items()}


def _of_another(loss: Loss, call: Call, key: str) -> bool:
    """Whether a key is one that only another function of the same name has, and stands at its default."""
    if key in parameters(call.target):
        return False
    others = [parameters(other.target) for other in loss.calls]
    return any(key in known and known[key].default == call.values[key] for known in others)


def _course(loss: Loss, call: Call, key: str, given: Mapping[str, Any]) -> Ends:
    path = f"{loss.path}.{key}"
    known = parameters(call.target)
    if key not in known:
        raise ConfigError(no_option(loss.path, key, loss.name, [k for k in known if k not in _supplied(call.target)]))
    if isinstance(call.target, type) or loss.kind == "composed":
        raise ConfigError(f"{path} cannot follow a course: loss '{loss.name}' holds it for itself")
    unknown = [str(k) for k in given if k not in _COURSE]
    if unknown:
        raise ConfigError(no_option(path, unknown[0], path, _COURSE))
    if "to" not in given:
        raise ConfigError(f"{path} must say where it goes, such as {{from: {show(given['from'])}, to: 1, over: 0.5}}")
    hint = hints(call.target).get(key, Any)
    ends = [convert(f"{path}.{end}", given[end], hint) for end in ("from", "to")]
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends) or _whole(hint):
        raise ConfigError(f"{path} cannot follow a course: only a number can")
    rest = {k: v for k, v in given.items() if k not in ("from", "to")}
    options = CourseOptions(**bind(path, CourseOptions, rest, owner=path))
    if options.over > 1 and not options.over.is_integer():
        raise ConfigError(f"{path}.over must be a share of the run, up to 1, or whole steps, got {options.over:g}")
    return Ends(float(ends[0]), float(ends[1]), options)


def _whole(hint: Any) -> bool:
    """Whether a hyperparameter takes whole numbers, or one of a few values, only."""
    return hint is int or getattr(hint, "__origin__", None) is int or get_origin(hint) is Literal


def _misfit(loss: Loss, task: type[Task], dataset: Call) -> str:
    gives = f"dataset '{dataset.name}' gives ({', '.join(task.fields)})"
    needs = ", ".join(required(called(loss.calls[0].target)))
    if not needs:
        return f"loss '{loss.name}' takes no field: it needs parameters without a default; {gives}"
    usual = {"regression": "mse", "binary": "bce", "multilabel": "bce"}.get(task.name, "cross_entropy")
    fits = [usual, *(name for name in catalog.losses_for(task.name) if name not in ("default", usual))]
    more = f", ... {len(fits) - _NAMED} more (lossbench list losses)" if len(fits) > _NAMED else ""
    given = "".join(f" dataset.{key}={dataset.values[key]}" for key in required(dataset.target))
    inner = loss.path != "loss"
    tries = f"try: {f'loss@{loss.path}' if inner else f'lossbench train dataset={dataset.name}{given} loss'}={usual}"
    preset = catalog.card("loss", loss.name).preset if loss.name in catalog.names("loss") else ""
    if preset and not inner:
        tries += f", or: lossbench train experiment={preset} loss={loss.name}"
    return f"loss '{loss.name}' needs ({needs}); {gives}; fits: {', '.join(fits[:_NAMED])}{more}; {tries}"
