"""From torch to torch: the passes that make a net smaller, and the one table that names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from edgedeploy.compress.channels import PruneChannels, PruneChannelsGradually
from edgedeploy.compress.checks import checked_outputs
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
from edgedeploy.compress.prune_weights import PruneWeights
from edgedeploy.compress.quantise_aware import QuantiseAware
from edgedeploy.compress.quantise_weights import QuantiseWeights
from edgedeploy.compress.reorder_channels import ReorderChannels
from edgedeploy.compress.share_weights import ShareWeights
from edgedeploy.compress.soup import Soup
from edgedeploy.compress.sparsity import Sparsify
from edgedeploy.compress.training import FineTune
from edgedeploy.errors import CompressionError
from edgedeploy.records import Pass, PassSettings

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task

__all__ = [
    "PASSES",
    "Distil",
    "DropLayers",
    "Factorise",
    "FineTune",
    "FoldBatchNorm",
    "HashWeights",
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
    "settings",
]

PASSES: dict[str, type[Pass]] = {
    PruneChannels.kind: PruneChannels,
    PruneHiddenUnits.kind: PruneHiddenUnits,
    PruneWeights.kind: PruneWeights,
    PruneChannelsGradually.kind: PruneChannelsGradually,
    Factorise.kind: Factorise,
    PruneHeads.kind: PruneHeads,
    DropLayers.kind: DropLayers,
    ReorderChannels.kind: ReorderChannels,
    ShareWeights.kind: ShareWeights,
    HashWeights.kind: HashWeights,
    PruneGradually.kind: PruneGradually,
    PruneIteratively.kind: PruneIteratively,
    Sparsify.kind: Sparsify,
    FineTune.kind: FineTune,
    Distil.kind: Distil,
    FoldBatchNorm.kind: FoldBatchNorm,
    Soup.kind: Soup,
    QuantiseAware.kind: QuantiseAware,
    QuantiseWeights.kind: QuantiseWeights,
}
"""Each kind that a recipe may name, and the dataclass whose fields are its settings."""

_WHY_LAST = {
    QuantiseAware.kind: "the scales that it learns hold for its weights alone",
    QuantiseWeights.kind: "the weights must stay on the grid that it puts them on",
}


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
    needs_layers = [step.kind for step in passes if not isinstance(step, FineTune)]
    if task.source is not None and needs_layers:
        raise CompressionError(
            f"{needs_layers[0]}: {task.source.name} holds a graph of operators without the layers that this pass works "
            "on; take the pass out, or give the net by model() in the task file"
        )
    for earlier, later in pairwise(passes):
        if earlier.kind in _WHY_LAST:
            reason = _WHY_LAST[earlier.kind]
            raise CompressionError(
                f"{later.kind}: no pass may follow {earlier.kind}, for {reason}; put {later.kind} first"
            )
    shapes = [output.shape for output in checked_outputs("the net", model, task.example)]
    for number, step in enumerate(passes, start=1):
        on_step(f"{step.kind} ({number}/{len(passes)})")
        model = step.apply(model, task)
        model.eval()
        checked_outputs(step.kind, model, task.example, shapes)
        on_net(step.kind, model)
    finalise(model)
    return model


def settings(step: Pass) -> PassSettings:
    """What a variant's record keeps of a pass."""
    return PassSettings(step.kind, step.version, dataclasses.asdict(cast("Any", step)))
