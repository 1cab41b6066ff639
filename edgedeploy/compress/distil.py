"""Distillation: a net learns from what a better one answers, which tells it more than the right answer alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from edgedeploy.compress import limits
from edgedeploy.compress.devices import spread
from edgedeploy.compress.features import Features
from edgedeploy.compress.held import masks_of, shared_of
from edgedeploy.compress.training import Batch, Training, reproducible, task_loss, train, train_from_scratch
from edgedeploy.errors import CompressionError
from edgedeploy.task import predict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Arrays, Task

_MEMBERS = 3


@dataclass(frozen=True, slots=True)
class Distil(Training):
    """Train the net to answer as a teacher does; see `Training` for how, and `held` for what stays as it is.

    The loss is `hardness` times the task's own, plus 1 - `hardness` times the cross-entropy to the teacher's classes,
    both softened by `temperature` T, times T^2 so that its gradients keep their size (Hinton et al., arXiv:1503.02531).
    Outputs that are no scores of classes are drawn to the teacher's by their mean squared error. Several outputs add
    up. `features` names layers whose outputs are matched too, "name", or "name = the teacher's name"; see `Features`.

    The teacher is the net before the recipe ("source"), several nets of the factory that are trained here from seeds of
    their own and answer together ("ensemble", `members` of them, for `teacher_epochs` at `teacher_learning_rate` where
    these are given), or what the task file's teacher() returns ("task"). The student is the net as it stands, or a
    fresh one of the task file's student().
    """

    kind: ClassVar[str] = "distil"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    temperature: float = 2.0
    hardness: float = 0.5
    teacher: Literal["source", "ensemble", "task"] = "source"
    members: int | None = None
    teacher_epochs: int | None = None
    teacher_learning_rate: float | None = None
    student: Literal["net", "task"] = "net"
    features: tuple[str, ...] = ()
    feature_weight: float | None = None

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not find its class once slots have made another
        limits.one_of(self, teacher=("source", "ensemble", "task"), student=("net", "task"))
        limits.above_0(self, "temperature", "feature_weight", "teacher_learning_rate")
        limits.at_least(self, members=2, teacher_epochs=1)
        if not 0 <= self.hardness <= 1:
            raise ValueError(f"hardness is {self.hardness}; it must be from 0 to 1")
        if self.hardness == 1 and not self.features:
            raise ValueError(
                "hardness is 1, so that the teacher has no say; it must be below 1 unless features are given"
            )
        for name in ("members", "teacher_epochs", "teacher_learning_rate"):
            if self.teacher != "ensemble" and getattr(self, name) is not None:
                raise ValueError(f"{name} is given, but the teacher is {self.teacher}; leave it out, or take ensemble")
        if self.features and self.teacher == "ensemble":
            raise ValueError("features are given, but an ensemble has several nets to match; name one teacher")
        if self.feature_weight is not None and not self.features:
            raise ValueError("feature_weight is given without features; leave it out, or name them")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Train the student, in place where it is the net. Raises CompressionError or PlanError."""
        with reproducible(self):
            if self.student == "task":
                model = self._fresh(model, task)
            teachers = list(self._teachers(task))
            soft = self._soft_targets(teachers, task)
            features = None
            if self.features:
                weight = 1.0 if self.feature_weight is None else self.feature_weight
                features = Features(self.kind, model, teachers[0], task.example, self.features, weight)
            with spread(teachers[0], self.devices, self.kind), features or nullcontext():
                train(
                    model,
                    task,
                    self,
                    loss=self._loss(model, task, soft, features),
                    more_parameters=features.parameters if features else (),
                )
        return model

    def _fresh(self, model: nn.Module, task: Task) -> nn.Module:
        if task.student is None:
            raise CompressionError(
                f"{self.kind}: student is 'task', but the task file has no student(); "
                "write one that returns the smaller net, or take student = 'net'"
            )
        if masks_of(model) or shared_of(model):
            raise CompressionError(
                f"{self.kind}: a student from the task file starts afresh, and what earlier passes made would be lost; "
                "put it first"
            )
        return task.student()

    def _teachers(self, task: Task) -> Iterator[nn.Module]:
        if self.teacher == "source":
            yield task.load_model()
        elif self.teacher == "task":
            if task.teacher is None:
                raise CompressionError(
                    f"{self.kind}: teacher is 'task', but the task file has no teacher(); "
                    "write one that returns a net with its weights, or take teacher = 'source'"
                )
            yield task.teacher().eval()
        else:
            settings = self.plainly(
                epochs=self.teacher_epochs or self.epochs,
                learning_rate=self.teacher_learning_rate or self.learning_rate,
            )
            for number in range(self.members or _MEMBERS):
                net = task.model()
                net.load_state_dict(train_from_scratch(task, settings.plainly(seed=self.seed + number)))
                yield net.eval()

    def _soft_targets(self, teachers: Sequence[nn.Module], task: Task) -> list[torch.Tensor]:
        """For each output and training example the mean over the teachers: of softened classes, or of plain numbers."""
        import torch

        targets = torch.from_numpy(task.train.targets)
        total: list[torch.Tensor] = []
        for teacher in teachers:
            with spread(teacher, self.devices, self.kind):
                answers = _finite(self.kind, predict(teacher, task.train.inputs))
            found = []
            for answer in map(torch.from_numpy, answers):
                scores = class_scores(answer, targets)
                found.append(answer if scores is None else torch.softmax(scores / self.temperature, 1))
            total = [one + more for one, more in zip(total, found, strict=True)] if total else found
        return [one / len(teachers) for one in total]

    def _loss(
        self, model: nn.Module, task: Task, soft: Sequence[torch.Tensor], features: Features | None
    ) -> Callable[[Batch], torch.Tensor]:
        from torch.nn import functional as F

        hard = task_loss(task)

        def loss(batch: Batch) -> torch.Tensor:
            output = model(*batch.inputs)
            total: Any = self.hardness * hard(output, batch.targets) if self.hardness else 0.0
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            for mine, its in zip(outputs, soft, strict=True):
                scores = class_scores(mine, batch.targets)
                wanted = its[batch.places]
                if scores is None:
                    distance = F.mse_loss(mine, wanted)
                else:
                    distance = F.cross_entropy(scores / self.temperature, wanted) * self.temperature**2
                total = total + (1 - self.hardness) * distance
            if features is not None:
                total = total + features.loss(batch.inputs)
            return total  # type: ignore[no-any-return]

        return loss


def class_scores(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    """The output as scores of classes with the classes on axis 1, or None where it is numbers.

    Scores they are where targets are integers and the output has one axis more than these: the second, as
    cross-entropy wants it, or the last. A single score is that of the second of two classes, the first one's being 0.
    """
    import torch

    if targets.is_floating_point():
        return None
    if output.shape == targets.shape:
        output = output.unsqueeze(1)
    fitting = [a for a in (1, output.ndim - 1) if output.shape[:a] + output.shape[a + 1 :] == targets.shape]
    if not fitting and output.ndim != 2:
        return None
    scores = output.movedim(fitting[0] if fitting else 1, 1)
    return torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores


def _finite(kind: str, outputs: Arrays) -> Arrays:
    if not all(np.isfinite(output).all() for output in outputs):
        raise CompressionError(f"{kind}: the teacher answers NaN or infinity on the training split; take another one")
    return outputs
