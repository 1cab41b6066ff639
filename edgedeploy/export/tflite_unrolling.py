"""A TFLite file of a recurrent net has a copy of the cell for each step, so a long one is refused before the wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import ExportError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Measured on an LSTM and a GRU of 8 to 512 steps, on one x86 core, in proportion: 1.0 to 1.2 kB a step in float, 1.3 to
# 1.6 kB in int8, .2 s to convert. At the limit an LSTM is half a megabyte without its weights and took 82 s, and 17
# more for int8.
_STEP_BYTES = 1000
_STEP_S = 0.2
MAX_STEPS = 512


def refuse_long_recurrence(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Raise ExportError where the recurrent layers of a net take more than MAX_STEPS steps between them."""
    steps = recurrent_steps(net, inputs)
    if not steps or sum(steps.values()) <= MAX_STEPS:
        return
    worst = max(steps, key=lambda path: steps[path])
    total = sum(steps.values())
    raise ExportError(
        f"TFLite has a copy of the cell for each of {total:,} steps, most of them of `{worst}`, where {MAX_STEPS} are "
        f"the limit, for each adds about {_STEP_BYTES:,} bytes to the file and {_STEP_S:g} s to its conversion; "
        "make the sequence shorter, or take onnx, which has one operator for any length"
    )


def recurrent_steps(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, int]:
    """How many steps each recurrent module takes for `inputs`, over its layers and directions, by its path."""
    import torch
    from torch import nn

    steps: dict[str, int] = {}

    def count(path: str) -> Callable[..., None]:
        def see(module: Any, arguments: tuple[Any, ...]) -> None:
            length = 1
            if isinstance(module, nn.RNNBase):
                sequence = arguments[0]
                axis = 1 if module.batch_first and sequence.dim() == 3 else 0
                length = sequence.shape[axis] * module.num_layers * (1 + module.bidirectional)
            steps[path] = steps.get(path, 0) + length

        return see

    handles = [
        module.register_forward_pre_hook(count(path))
        for path, module in net.named_modules()
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    ]
    try:
        if handles:
            with torch.no_grad():
                net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return steps
