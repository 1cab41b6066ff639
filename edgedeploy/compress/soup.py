"""Model soups: several nets of one origin averaged weight by weight, which costs nothing where the net runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgedeploy.compress import limits, running_statistics
from edgedeploy.compress.held import enforce, masks_of, shared_of
from edgedeploy.compress.scores import score
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.errors import CompressionError
from edgedeploy.task.weights import read_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task

    State = Mapping[str, torch.Tensor]

_METHODS = ("uniform", "weighted", "greedy")


@dataclass(frozen=True, slots=True)
class Soup(Training):
    """Average nets of one origin weight by weight (Wortsman et al., arXiv:2203.05482).

    The nets are `members` fine-tunings of the net as it stands, see `Training`, from the seeds `seed`, `seed` + 1 and
    so on, each at its own of the `learning_rates` where these are given; or those of `files`, state dicts for the
    net of model(), by paths from the task's folder. "uniform" counts all alike, "weighted" by `weights`. "greedy"
    begins with the best by the task's metric on the calibration split and adds the next best, and so on, wherever the
    average does not get worse by it; the loss decides between equals. Batch norms learn their statistics anew from
    the training split. What is held of the net stays so.
    """

    kind: ClassVar[str] = "soup"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    epochs: int = 0  # needed for members alone
    members: int | None = None
    learning_rates: tuple[float, ...] = ()
    files: tuple[str, ...] = ()
    method: Literal["uniform", "weighted", "greedy"] = "greedy"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.members is None) == (not self.files):
            raise ValueError(
                "members and files are both given; keep one" if self.files else "members is missing; give it, or files"
            )
        if self.files and (self.epochs or self.learning_rates):
            name = "epochs" if self.epochs else "learning_rates"
            raise ValueError(f"{name} is given, but files are averaged as they are; leave it out")
        self.plainly(epochs=1 if self.files else self.epochs)  # checks what is for training
        count = self._count
        if count < 2:
            raise ValueError(f"{'files' if self.files else 'members'} gives {count} net; it must give at least 2")
        limits.one_of(self, method=_METHODS)
        for rate in self.learning_rates:
            self.plainly(epochs=1, learning_rate=rate)
        if self.learning_rates and len(self.learning_rates) != count:
            raise ValueError(
                f"learning_rates has {len(self.learning_rates)} entries; it must have {count}, one a member"
            )
        if self.method != "weighted" and self.weights:
            raise ValueError(
                f"weights are given, but {self.method} has no use for them; leave them out, or take weighted"
            )
        if self.method == "weighted":
            if len(self.weights) != count:
                raise ValueError(f"weights has {len(self.weights)} entries; it must have {count}, one for each net")
            if not all(0 <= weight < float("inf") for weight in self.weights) or not sum(self.weights) > 0:
                raise ValueError(f"weights is {self.weights}; they must be 0 or above, and one of them above 0")

    @property
    def reads(self) -> tuple[str, ...]:
        """Files whose content is part of what is asked for."""
        return self.files

    @property
    def _count(self) -> int:
        return len(self.files) or self.members or 0

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Put the average into the net, in place. Raises CompressionError, and PlanError for an unfit file."""
        states = self._from_files(model, task) if self.files else self._fine_tuned(model, task)
        if self.method == "greedy":
            self._greedy(model, states, task)
        else:
            self._fill(model, states, self.weights or (1.0,) * len(states), task)
        return model

    def _fine_tuned(self, model: nn.Module, task: Task) -> list[State]:
        states: list[State] = []
        for number in range(self._count):
            rate = self.learning_rates[number] if self.learning_rates else self.learning_rate
            settings = self.plainly(seed=self.seed + number, learning_rate=rate)
            member = copy.deepcopy(model)
            with reproducible(settings):
                train(member, task, settings)
            states.append(member.state_dict())
        return states

    def _from_files(self, model: nn.Module, task: Task) -> list[State]:
        states: list[State] = []
        for name in self.files:
            net = task.model()
            read_weights(task.folder / name, into=net)
            states.append(net.state_dict())
        shapes = [{name: value.shape for name, value in state.items()} for state in (states[0], model.state_dict())]
        if masks_of(model) or shared_of(model) or shapes[0] != shapes[1]:
            raise CompressionError(
                f"{self.kind}: files hold nets as model() makes them, and what earlier passes made would be lost; "
                "put it first, or average members instead"
            )
        return states

    def _greedy(self, model: nn.Module, states: Sequence[State], task: Task) -> None:
        """Algorithm 1 of the paper."""
        scores = []
        for state in states:
            model.load_state_dict(state)
            scores.append(self._score(model, task))
        best_first = sorted(range(len(states)), key=lambda number: scores[number], reverse=True)
        taken, best = best_first[:1], scores[best_first[0]]
        for number in best_first[1:]:
            self._fill(model, [states[i] for i in (*taken, number)], (1.0,) * (len(taken) + 1), task)
            found = self._score(model, task)
            if found >= best:
                taken, best = [*taken, number], found
        self._fill(model, [states[i] for i in taken], (1.0,) * len(taken), task)

    def _score(self, model: nn.Module, task: Task) -> tuple[float, float]:
        """The metric, and the loss turned round, on the calibration split."""
        found = score(model, task, task.calibration)
        return found.metric, -found.loss

    def _fill(self, model: nn.Module, states: Sequence[State], weights: Sequence[float], task: Task) -> None:
        model.load_state_dict(average(states, weights))
        enforce(model)
        if len(states) > 1:
            running_statistics.estimate(model, task.train.inputs, self.batch_size)
        model.eval()


def average(states: Sequence[State], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The weighted mean of state dicts, summed in double precision; what is no float comes from the first."""
    import torch

    total = sum(weights)
    mean = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            mean[name] = first
            continue
        parts = [state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True)]
        mean[name] = torch.stack(parts).sum(0).to(first.dtype)
    return mean
