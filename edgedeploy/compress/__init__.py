"""From torch to torch: the passes that make a net smaller, and the one table that names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from edgedeploy.compress import findings
from edgedeploy.compress.channels import PruneChannels, PruneChannelsGradually
from edgedeploy.compress.checks import checked_outputs
from edgedeploy.compress.choose_rate import ChooseRate
from edgedeploy.compress.distil import Distil
from edgedeploy.compress.factorise import Factorise
from edgedeploy.compress.fold_batch_norm import FoldBatchNorm
from edgedeploy.compress.gradual_pruning import PruneGradually
from edgedeploy.compress.hash_weights import HashWeights
from edgedeploy.compress.heads import PruneHeads
from edgedeploy.compress.held import finalise
from edgedeploy.compress.hidden_units import PruneHiddenUnits
from edgedeploy.compress.iterative_pruning import PruneIteratively
from edgedeploy.compress.layers import DropLayers
from edgedeploy.compress.optional import OptionalPass
from edgedeploy.compress.order import misplaced
from edgedeploy.compress.prune_adaptively import PruneAdaptively
from edgedeploy.compress.prune_weights import PruneWeights
from edgedeploy.compress.quantise_aware import QuantiseAware
from edgedeploy.compress.quantise_weights import QuantiseWeights
from edgedeploy.compress.reorder_channels import ReorderChannels
from edgedeploy.compress.share_weights import ShareWeights
from edgedeploy.compress.soup import Soup
from edgedeploy.compress.sparsity import Sparsify
from edgedeploy.compress.training import FineTune
from edgedeploy.errors import CompressionError
from edgedeploy.records import Pass, PassSettings, unwrapped

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task

__all__ = [
    "PASSES",
    "ChooseRate",
    "Distil",
    "DropLayers",
    "Factorise",
    "FineTune",
    "FoldBatchNorm",
    "HashWeights",
    "OptionalPass",
    "PruneAdaptively",
    "PruneChannels",
    "PruneChannelsGradually",
    "PruneGradually",
    "PruneHeads",
    "PruneHiddenUnits",
    "PruneIteratively",
    "PruneWeights",
    "QuantiseAware",
    "QuantiseWeights",
    "ReorderChannels",
    "ShareWeights",
    "Soup",
    "Sparsify",
    "apply_passes",
    "finalise",
    "findings",
    "misplaced",
    "settings",
    "tools",
]

PASSES: dict[str, type[Pass]] = {
    step.kind: step
    for step in (
        PruneWeights,
        PruneGradually,
        PruneIteratively,
        PruneAdaptively,
        Sparsify,
        PruneChannels,
        PruneChannelsGradually,
        PruneHeads,
        PruneHiddenUnits,
        DropLayers,
        ShareWeights,
        HashWeights,
        ReorderChannels,
        Factorise,
        FoldBatchNorm,
        Soup,
        FineTune,
        Distil,
        QuantiseAware,
        QuantiseWeights,
        ChooseRate,
        OptionalPass,
    )
}
"""Each kind that a recipe may name, and the dataclass whose fields are its settings."""


def apply_passes(
    model: nn.Module,
    passes: Sequence[Pass],
    task: Task,
    on_step: Callable[[str], None] = lambda _: None,
    on_net: Callable[[str, nn.Module], None] = lambda _, __: None,
) -> nn.Module:
    """Run the passes one after another and make their work permanent; may change `model` in place.

    `on_step` gets one line before each pass. After each, the net must still give finite outputs of the same
    shapes on the example; then `on_net` gets the pass's kind and the net, to look at and not to keep. Raises
    CompressionError, which names the pass.
    """
    needs_layers = [step.kind for step in map(unwrapped, passes) if not isinstance(step, FineTune)]
    if task.source is not None and needs_layers:
        raise CompressionError(
            f"{needs_layers[0]}: {task.source.name} holds a graph of operators without the layers that this pass works "
            "on; take the pass out, or give the net by model() in the task file"
        )
    if (found := misplaced(passes)) is not None:
        raise CompressionError(found[1])
    shapes = [output.shape for output in checked_outputs("the net", model, task.example)]
    for number, step in enumerate(passes, start=1):
        name = _name(step)
        on_step(f"{name} ({number}/{len(passes)})")
        before, model = model, step.apply(model, task)
        findings.carry(model, before)
        model.eval()
        checked_outputs(name, model, task.example, shapes)
        on_net(name, model)
    finalise(model)
    return model


def settings(step: Pass) -> PassSettings:
    """What a variant's record keeps of a pass; of one that it wraps too, as `pass.kind`, `pass.version`, ..."""
    return PassSettings(step.kind, step.version, _fields(step))


def tools(step: Pass) -> frozenset[str]:
    """The distributions whose version can change what the pass does, or one that it wraps."""
    inner = getattr(step, "pass_", None)
    return frozenset(step.tools) | (tools(inner) if inner is not None else frozenset())


def _name(step: Pass) -> str:
    inner: Pass | None = getattr(step, "pass_", None)
    return step.kind if inner is None else f"{step.kind} {_name(inner)}"


def _fields(step: Pass) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cast("Any", step)):
        value = getattr(step, field.name)
        if field.name == "pass_":
            found |= {"pass.kind": value.kind, "pass.version": value.version}
            found |= {f"pass.{name}": setting for name, setting in _fields(value).items()}
        else:
            found[field.name] = list(value) if isinstance(value, tuple) else value  # as JSON gives it back
    return found
