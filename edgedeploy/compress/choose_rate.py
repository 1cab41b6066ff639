"""A rate chosen by cross-validation: any pass with a numeric setting, as strong as the net bears it."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Union, cast, get_args, get_origin, get_type_hints

from edgedeploy.compress import limits
from edgedeploy.compress.findings import note
from edgedeploy.compress.order import LAST
from edgedeploy.compress.scores import folds, part, score, without
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.plan import did_you_mean
from edgedeploy.records import Pass, unwrapped

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseRate(Training):
    """Apply `pass` with the last of `values` for its `setting` that keeps the drop within `max_drop`, and train.

    `values` run from mild to strong. They are tried by cross-validation over the training split, in `folds` parts,
    classes spread evenly: the net is compressed and trained, as the fields of training say, on all parts but one, and
    judged by the task's metric on that one. What it is held against is the untouched net, trained equally, so that the
    difference is what the pass does, not what more training does. A value passes when the mean drop over the parts and
    one standard error of it (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3) are within
    `max_drop` together. In the end the value found is applied, and the net trained, on the whole training split.

    The source weights may have seen all parts, so the scores by themselves are too good; the drop compares like with
    like. A pass after which nothing may come trains by itself: then the net is not trained once more.
    """

    kind: ClassVar[str] = "choose-rate"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)
    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True}  # for a field typed as Pass

    pass_: Pass
    setting: str
    values: tuple[int | float, ...]
    max_drop: float
    folds: int = 5

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        limits.not_negative(self, "max_drop")
        limits.at_least(self, folds=2)
        if not self.values:
            raise ValueError("values is empty; give at least one")
        ordered = sorted(set(self.values))
        if list(self.values) not in (ordered, ordered[::-1]):
            raise ValueError(f"values is {list(self.values)}; it must run from mild to strong, and not back")
        _check_setting(type(self.pass_), self.setting, self.values)
        for value in self.values:
            try:
                step = self._with(value)
            except ValueError as error:
                raise ValueError(f"values hold {value}, but of {self.pass_.kind} {error}") from error
            if value == self.values[0]:
                object.__setattr__(self, "pass_", step)  # whatever stood there: it is what is to be chosen

    @staticmethod
    def complete(inner: Mapping[str, Any], outer: Mapping[str, Any], cls: type[Pass]) -> dict[str, Any]:
        """The wrapped pass's table as a plan has it, given a first value for the setting that is to be chosen.

        Raises ValueError, led by the key, where there is nothing to fill in, the setting is no number of the pass, or
        it has a value there already.
        """
        for key in ("setting", "values"):
            if key not in outer:
                raise ValueError(f"{key}: missing; add it")
        setting, values = outer["setting"], outer["values"]
        numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        if not numbers or not values:
            raise ValueError(f"values: found {values!r}: expected numbers, from mild to strong")
        try:
            _check_setting(cls, setting, values)
        except ValueError as error:
            raise ValueError(f"setting: {error}") from error
        if setting in inner:
            raise ValueError(f"pass.{setting}: found {inner[setting]!r}, but it is to be chosen; leave it out")
        return {**inner, setting: values[0]}

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the net compressed with the value found, and trained. Raises CompressionError where none will do.

        A value at which the pass fails, or the training after it, is too strong. NothingToDo is passed on.
        """
        drops, failed = self._drops(model, task)
        best = next((v for v in reversed(self.values) if v in drops and self._passes(drops[v])), None)
        tried = "; ".join(
            f"{value} {failed[value] if value in failed else _told(drops[value])}" for value in self.values
        )
        what = f"{self.setting} of {self.pass_.kind}"
        if best is None:
            raise CompressionError(
                f"{self.kind}: no value of {what} keeps the drop of {task.metric_name} within {self.max_drop:g}: "
                f"{tried}; begin with a milder value, train for more epochs, or raise max_drop"
            )
        found = self._compressed(model, task, best)
        note(found, f"{self.kind}: {what} became {best}; drop over {self.folds} folds: {tried}")
        return found

    def _drops(self, model: nn.Module, task: Task) -> tuple[dict[int | float, list[float]], dict[int | float, str]]:
        """Drops of each value, one a fold, and why the others failed."""
        try:
            parts = folds(task.train.targets, self.folds, self.seed)
        except ValueError as error:
            raise CompressionError(
                f"{self.kind}: folds is {self.folds}, but the training split holds {len(task.train)}; lower folds"
            ) from error
        drops: dict[int | float, list[float]] = {value: [] for value in self.values}
        failed: dict[int | float, str] = {}
        for places in parts:
            seen = dataclasses.replace(task, train=without(task.train, places))
            unseen = part(task.train, places)
            untouched = copy.deepcopy(model)
            self._train(untouched, seen)
            reference = score(untouched, task, unseen).metric
            for value in self.values:
                if value in failed:
                    continue
                try:
                    net = self._compressed(copy.deepcopy(model), seen, value)
                except NothingToDo:
                    raise
                except CompressionError as error:
                    failed[value] = f"fails ({error})"
                    del drops[value]
                    continue
                drops[value].append(reference - score(net, task, unseen).metric)
        return drops, failed

    def _passes(self, drops: Sequence[float]) -> bool:
        mean, error = _mean_and_error(drops)
        return mean + error <= self.max_drop + 1e-12  # the budget itself is within the budget

    def _compressed(self, model: nn.Module, task: Task, value: float) -> nn.Module:
        step = self._with(value)
        model = step.apply(model, task)
        if unwrapped(step).kind not in LAST:
            self._train(model, task)
        return model

    def _train(self, model: nn.Module, task: Task) -> None:
        with reproducible(self):
            train(model, task, self)

    def _with(self, value: float) -> Pass:
        return cast("Pass", dataclasses.replace(cast("Any", self.pass_), **{self.setting: value}))


def _mean_and_error(drops: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error s / sqrt(n), s with n - 1 degrees of freedom."""
    return statistics.fmean(drops), statistics.stdev(drops) / math.sqrt(len(drops))


def _told(drops: Sequence[float]) -> str:
    mean, error = _mean_and_error(drops)
    return f"loses {mean:.4f} +- {error:.4f}"


def _check_setting(cls: type[Pass], setting: object, values: Collection[int | float]) -> None:
    """Raise ValueError unless the setting is a number of the pass, and the values are of its type."""
    hints = get_type_hints(cls)
    numeric = {
        field.name: types_
        for field in dataclasses.fields(cast("Any", cls))
        if field.init and (types_ := _number_types(hints[field.name]))
    }
    if not isinstance(setting, str) or setting not in numeric:
        there = f"it has {', '.join(numeric)}" if numeric else "it has none"
        raise ValueError(
            f"{setting!r} is no number that {cls.kind} may be given{did_you_mean(str(setting), numeric)}; {there}"
        )
    broken = [value for value in values if float not in numeric[setting] and not isinstance(value, int)]
    if broken:
        raise ValueError(f"{broken[0]} is no whole number, which {setting} of {cls.kind} must be")


def _number_types(hint: Any) -> set[type]:
    """Those of int and float that a field of this type may hold."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {option for option in options if option in (int, float)}
