"""Training on other devices than the processor, each batch split over them, with nothing but the forward pass moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import CompressionError

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def spread(model: nn.Module, devices: Sequence[str], kind: str) -> Iterator[None]:
    """Within the block a call of the net splits its batch over `devices` and gathers the outputs in the order given.

    Parameters stay where they are, in the processor's memory: copies go to the devices at each call, and gradients come
    back through them. Running statistics, as those of batch norms, follow the first device's share of the batch.
    Without devices nothing changes. Raises CompressionError, led by the pass's `kind`, for a device that is not there.
    """
    import torch
    from torch.func import functional_call
    from torch.utils import _pytree as pytree

    if not devices:
        yield
        return
    places = present(devices, kind)
    # The same parameters and modules, yet with the forward pass of its class; copy.copy would copy a traced net whole.
    plain: nn.Module = object.__new__(type(model))
    vars(plain).update(vars(model))

    def forward(*inputs: torch.Tensor) -> Any:
        parts = zip(*(torch.tensor_split(one, len(places)) for one in inputs), strict=True)
        outputs = []
        for number, (place, part) in enumerate(zip(places, parts, strict=True)):
            if len(part[0]):
                values = {name: parameter.to(place) for name, parameter in model.named_parameters()}
                values |= {name: buffer.to(place, copy=True) for name, buffer in model.named_buffers()}
                outputs.append(functional_call(plain, values, tuple(one.to(place) for one in part)))
                if number == 0 and model.training:
                    with torch.no_grad():
                        for name, buffer in model.named_buffers():
                            buffer.copy_(values[name])
        # Everything is queued on every device before the first output is waited for.
        return pytree.tree_map(lambda *ones: torch.cat([one.to(inputs[0].device) for one in ones]), *outputs)

    # On an instance, so that hooks, train() and copies of the net work as ever.
    vars(model)["forward"] = forward
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
            yield
    finally:
        del vars(model)["forward"]


def present(devices: Sequence[str], kind: str) -> list[torch.device]:
    """The devices of these names. Raises CompressionError, led by the pass's `kind`, for one that is not there."""
    import torch

    found = []
    for name in devices:
        try:
            found.append(torch.device(name))
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
            raise CompressionError(
                f"{kind}: devices names {name!r}, which is not on this machine; these are: {', '.join(there)}"
            ) from error
    return found
