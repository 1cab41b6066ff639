"""Training, from scratch and after a pass has done damage: one loop, the same weights each time for the same seed."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.compress import limits, optimisers
from edgedeploy.compress.devices import present, spread
from edgedeploy.compress.held import enforce
from edgedeploy.compress.held_out import Best, held_out_loss
from edgedeploy.errors import CompressionError, PlanError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some examples of the training split, by their places in it; see `train`."""

    places: torch.Tensor
    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Training:
    """How a net is trained: on the training split alone, keeping the last epoch; selection and test data stay unseen.

    `learning_rate` is the first and highest one. "cosine" lets it fall to zero over all steps, "constant" keeps it;
    `decay` multiplies it after each epoch ("exponential"), after every `decay_every` epochs ("step"), or once the loss
    on held-out data has not got better for more than `patience` epochs ("plateau"). "sgd" runs with `momentum` 0.9,
    and with Nesterov's unless `nesterov` is false. `weight_decay` spares biases and normalisation; "adam" adds it to
    the gradient, "adamw" does not (Loshchilov and Hutter, arXiv:1711.05101). `grad_clip` bounds the norm of all
    gradients together.

    With `stop_after` the training ends after so many epochs without better loss on held-out data, and in any case the
    best epoch is kept. Held out is the calibration split, judged by the task's own loss.

    `devices` split each batch between them; see `devices.spread`. `threads` is part of what is asked for because sums
    come out in another order with another number; more than one pays for large nets only.
    """

    kind: ClassVar[str]

    epochs: int
    learning_rate: float = 1e-3
    batch_size: int = 64
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float | None = None
    nesterov: bool | None = None
    schedule: Literal["cosine", "constant", "exponential", "step", "plateau"] = "cosine"
    decay: float | None = None
    decay_every: int | None = None
    patience: int | None = None
    weight_decay: float = 0.01
    grad_clip: float | None = None
    stop_after: int | None = None
    seed: int = 0
    threads: int = 1
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits.at_least(self, epochs=1, batch_size=1, threads=1, stop_after=1)
        limits.above_0(self, "learning_rate", "grad_clip")
        limits.not_negative(self, "weight_decay")
        limits.seed(self)
        optimisers.check(self)

    def plainly(self, **changes: Any) -> FineTune:
        """Training alone as these settings say, but for the changes: for nets that a pass trains on the way."""
        return FineTune(**{field.name: getattr(self, field.name) for field in fields(Training)} | changes)


@dataclass(frozen=True, slots=True)
class FineTune(Training):
    """Train the net as it stands; see `Training`. Zeros of an earlier prune-weights stay zeros."""

    kind: ClassVar[str] = "fine-tune"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Train the net in place; weights held at zero stay there. Raises CompressionError when it diverges."""
        with reproducible(self):
            train(model, task, self)
        return model


def train_from_scratch(
    task: Task, settings: FineTune, on_epoch: Callable[[str], None] = lambda _: None
) -> dict[str, torch.Tensor]:
    """Train a fresh net of the task's factory and return its state dict; `on_epoch` gets one line after each epoch.

    The factory's start depends on the seed too. Raises PlanError or CompressionError.
    """
    with reproducible(settings):
        model = task.model()
        train(model, task, settings, on_epoch)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def save_weights(state: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write a state dict as safetensors, whole or not at all. Raises PlanError where the file cannot be written."""
    from safetensors.torch import save

    # Copies, because safetensors refuses two names for one tied tensor.
    content = save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
    temporary: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
        temporary = None
    except OSError as error:
        raise PlanError(f"{file}: the weights cannot be written there ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def reproducible(settings: Training) -> Iterator[None]:
    """Seed and thread count as the settings say, and as they were before once the block ends.

    Raises CompressionError for a device that is not there.
    """
    import torch

    with_generators = [device for device in present(settings.devices, settings.kind) if device.type == "cuda"]
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=with_generators):
            torch.manual_seed(settings.seed)
            yield
    finally:
        torch.set_num_threads(threads)


def train(
    model: nn.Module,
    task: Task,
    settings: Training,
    on_epoch: Callable[[str], None] = lambda _: None,
    *,
    loss: Callable[[Batch], torch.Tensor] | None = None,
    around_pass: Callable[[float], AbstractContextManager[None]] = lambda _: nullcontext(),
    after_step: Callable[[float], None] = lambda _: None,
    more_parameters: Sequence[nn.Parameter] = (),
    settled: float = 0.0,
) -> None:
    """Train the net in place and leave it in eval mode; what is held of it (see `held`) stays so.

    `loss` runs the net on a batch itself; by default it is the task's. Each forward and backward pass runs inside
    `around_pass(progress)`, progress from 0 to below 1, the optimiser's step outside: there a pass may put other
    weights in for the while. `after_step(progress)` comes after each step and may change weights, or what is held.
    `more_parameters` are trained too, though they are not the net's. Where held-out data is watched, that too runs
    inside `around_pass`, in eval mode, with the share of the epochs that are done; epochs before the share `settled`,
    in which the pass still changes what it trains, are not judged. Raises CompressionError when it diverges.
    """
    import torch

    inputs = [torch.from_numpy(array) for array in task.train.inputs]
    targets = torch.from_numpy(task.train.targets)
    if loss is None:
        loss = _loss_of(model, task)
    shuffle = torch.Generator().manual_seed(settings.seed)
    batches = math.ceil(len(targets) / settings.batch_size)
    parameters = [parameter for parameter in (*model.parameters(), *more_parameters) if parameter.requires_grad]
    if not parameters:
        raise CompressionError(f"{settings.kind}: the net has no parameter that can be trained")
    optimiser = optimisers.optimiser_of(parameters, settings)
    schedule = optimisers.Schedule(optimiser, settings, batches * settings.epochs)
    least = min(2 * max(len(settings.devices), 1), settings.batch_size)
    watched = settings.stop_after is not None or settings.schedule == "plateau"
    best = Best(model, more_parameters)
    step = 0
    model.train()
    with spread(model, settings.devices, settings.kind):
        for epoch in range(1, settings.epochs + 1):
            total = 0.0
            for chosen in torch.split(torch.randperm(len(targets), generator=shuffle), settings.batch_size):
                progress = step / (batches * settings.epochs)
                step += 1
                if len(chosen) < least and batches > 1:
                    schedule.after_step()
                    continue  # batch normalisation has no variance to work with
                optimiser.zero_grad()
                with _explained(settings.kind), around_pass(progress):
                    found = loss(Batch(chosen, tuple(array[chosen] for array in inputs), targets[chosen]))
                    found.backward()  # type: ignore[no-untyped-call]
                if not math.isfinite(value := float(found.detach())):
                    raise CompressionError(
                        f"{settings.kind}: the loss became {value} in epoch {epoch}; "
                        f"lower learning_rate (now {settings.learning_rate})"
                    )
                if settings.grad_clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
                optimiser.step()
                after_step(progress)
                enforce(model)
                schedule.after_step()
                total += value * len(chosen)
            held_out = None
            if watched and epoch >= settled * settings.epochs:
                with _explained(settings.kind), around_pass(epoch / settings.epochs):
                    held_out = held_out_loss(model, task.calibration, task_loss(task), settings.batch_size)
                best.note(held_out)
            schedule.after_epoch(held_out)
            told = "" if held_out is None else f", {held_out:.4f} on held-out data"
            on_epoch(f"epoch {epoch}/{settings.epochs}, loss {total / len(targets):.4f}{told}")
            if settings.stop_after is not None and best.epochs_since >= settings.stop_after:
                break
    if settings.stop_after is not None:
        best.restore()
        enforce(model)  # what shared weights stand for goes back too
    model.eval()


@contextmanager
def _explained(kind: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        message = " ".join(str(error).split())[:300]
        raise CompressionError(
            f"{kind}: a training step raised {type(error).__name__}: {message}; "
            "check that the net, the targets and the loss fit together"
        ) from error


def task_loss(task: Task) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """What the task trains for, of the net's output and the targets: its own loss, or the default for its targets."""
    return task.loss or _default_loss


def _loss_of(model: nn.Module, task: Task) -> Callable[[Batch], torch.Tensor]:
    measure = task_loss(task)
    return lambda batch: measure(model(*batch.inputs), batch.targets)


def _default_loss(output: Any, target: torch.Tensor) -> torch.Tensor:
    import torch
    from torch.nn import functional as F

    if not isinstance(output, torch.Tensor):
        raise PlanError(
            "the net has several outputs; say in the task file what to train them for: loss(output, target)"
        )
    if not target.is_floating_point():
        return F.cross_entropy(output, target.long())
    if output.numel() != target.numel():
        raise PlanError(f"the net's output {tuple(output.shape)} and the targets {tuple(target.shape)} differ in shape")
    return F.mse_loss(output, target.to(output.dtype).view_as(output))
