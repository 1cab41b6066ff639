"""What a student's layers give is drawn to what a teacher's layers give, beside the answers of the whole nets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgedeploy.compress.graph import hooked
from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgedeploy.task import Arrays


class Features:
    """Pairs of layers, one of the student, one of the teacher, whose outputs are matched on each batch.

    Where the widths differ a linear projection, learnt with the net, leads from the student's to the teacher's
    (FitNets: Romero et al., arXiv:1412.6550, section 2.2). The squared error is taken relative to the teacher's mean
    square, so that `weight` means the same for every layer. As a context manager it listens to both nets.
    """

    def __init__(
        self, kind: str, student: nn.Module, teacher: nn.Module, example: Arrays, names: Sequence[str], weight: float
    ) -> None:
        self._kind = kind
        self._student = student
        self._teacher = teacher
        self._weight = weight
        self._pairs = [
            (mine.strip(), its.strip() or mine.strip()) for mine, _, its in (n.partition("=") for n in names)
        ]
        self._heard: tuple[dict[str, list[torch.Tensor]], ...] = ({}, {})
        self._listening = ExitStack()
        for whose, net, place in (("net", student, 0), ("teacher", teacher, 1)):
            there = [name for name, _ in net.named_modules() if name]
            for pair in self._pairs:
                if pair[place] not in there:
                    raise CompressionError(
                        f"{kind}: features names {pair[place]!r}, but the {whose} has no layer called so; "
                        f"these are: {', '.join(there)}"
                    )
        self._projections = self._projected(example)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the projections."""
        return [parameter for _, one in self._projections.values() for parameter in one.parameters()]

    def __enter__(self) -> None:
        for net, heard, place in ((self._student, self._heard[0], 0), (self._teacher, self._heard[1], 1)):
            self._listening.enter_context(_listening(net, {pair[place] for pair in self._pairs}, heard))

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def loss(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The weighted sum over the pairs; the student has just run on these inputs, the teacher runs here."""
        import torch
        from torch.nn import functional as F

        with torch.no_grad():
            self._teacher(*inputs)
        total: Any = 0.0
        for pair in self._pairs:
            mine, its = self._outputs(pair)
            if pair in self._projections:
                axis, projection = self._projections[pair]
                mine = projection(mine.movedim(axis, -1)).movedim(-1, axis)
            total = total + F.mse_loss(mine, its) / its.square().mean().clamp(min=torch.finfo(its.dtype).tiny)
        for heard in self._heard:
            heard.clear()
        return self._weight * total  # type: ignore[no-any-return]

    def _projected(self, example: Arrays) -> dict[tuple[str, str], tuple[int, nn.Linear]]:
        """For each pair of unlike width the axis in which it differs and the projection."""
        import torch
        from torch import nn

        inputs = tuple(torch.from_numpy(array) for array in example)
        self._student.eval()
        with self, torch.no_grad():
            self._student(*inputs)
            self._teacher(*inputs)
            found = {}
            for mine, its in self._pairs:
                one, other = (tuple(output.shape) for output in self._outputs((mine, its)))
                axes = [axis for axis, sizes in enumerate(zip(one, other, strict=False)) if len(set(sizes)) > 1]
                if len(one) != len(other) or len(axes) > 1:
                    raise CompressionError(
                        f"{self._kind}: features: {mine} gives {one} on the example, the teacher's {its} {other}; "
                        "they may differ along one axis, so match other layers"
                    )
                if axes:
                    found[mine, its] = axes[0], nn.Linear(one[axes[0]], other[axes[0]])
        for heard in self._heard:
            heard.clear()
        return found

    def _outputs(self, pair: tuple[str, str]) -> Iterator[torch.Tensor]:
        import torch

        for name, whose, heard in zip(pair, ("net", "teacher"), self._heard, strict=True):
            if not heard.get(name):
                raise CompressionError(
                    f"{self._kind}: features: {name} of the {whose} gives no tensor when the net runs; name another"
                )
            parts = [part.to("cpu") for part in heard[name]]
            yield parts[0] if len(parts) == 1 else torch.cat(parts)  # a part from each device, or from each call


@contextmanager
def _listening(net: nn.Module, names: set[str], heard: dict[str, list[torch.Tensor]]) -> Iterator[None]:
    """Note what these layers give within the block; of several tensors the first, a recurrent layer's states."""
    import torch

    def note(name: str, output: Any) -> None:
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(first, torch.Tensor):
            heard.setdefault(name, []).append(first)

    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name in sorted(names)
    ]
    with hooked(hooks):
        yield
