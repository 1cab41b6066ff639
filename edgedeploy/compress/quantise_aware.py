"""Quantisation-aware training: the net learns to bear int8, and the scales it learns with go into both formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgedeploy.compress import graph_rewrites, integer_graph
from edgedeploy.compress.held import hold, masks_of
from edgedeploy.compress.training import Training, reproducible, train
from edgedeploy.errors import CompressionError, NothingToDo
from edgedeploy.quiet import quiet
from edgedeploy.records import Calibration, Int8Form
from edgedeploy.task import predict
from edgedeploy.tracing import COMPILER_ERRORS, sample, trace

if TYPE_CHECKING:
    from torch import fx, nn

    from edgedeploy.task import Task

_FREEZE_AFTER = 0.5  # of all steps: the weights then settle under scales that no longer move


@dataclass(frozen=True, slots=True)
class QuantiseAware(Training):
    """Train with weights and activations rounded to int8, as the integer kernels of both formats will round them.

    Batch norms are folded first. Ranges start from the calibration split and follow the batches for half of the
    training. The net that comes out holds its scales: it is exported as int8 alone, without calibration, and no
    pass may follow.
    """

    kind: ClassVar[str] = "quantise-aware"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)
    int8_forms: ClassVar[tuple[Int8Form, ...]] = tuple(form for form in Int8Form if form.trainable)

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return a graph of the net that quantises and dequantises wherever a kernel computes on integers.

        Zeros of an earlier prune-weights stay zeros. Raises CompressionError where nothing can be quantised, the
        net is recurrent or cannot be traced, or the training diverges.
        """
        recurrent = sorted({type(m).__name__ for m in model.modules() if isinstance(m, _recurrent_kinds())})
        if recurrent:
            raise NothingToDo(
                f"{self.kind}: the integer kernels that both formats have leave out {', '.join(recurrent)}, so its "
                "trained scales would have nowhere to go; use quantise-weights with bits = 8 instead"
            )
        masks = masks_of(model)
        module = traced(model, task)
        graph_rewrites.fold_batch_norms(module)
        graph_rewrites.bound_masks(module)
        graph_rewrites.split_attention(module)
        if not integer_graph.insert_roundings(module):
            raise NothingToDo(
                f"{self.kind}: the net has no convolution (1d or 2d) and no linear layer that could be quantised"
            )
        hold(module, masks)
        with reproducible(self):
            _watch(module, task)
            graph_rewrites.set_dropout(module, active=True)
            train(
                module,
                task,
                self,
                around_pass=lambda progress: _rounding(module, progress),
                settled=_FREEZE_AFTER,
            )
        graph_rewrites.set_dropout(module, active=False)
        integer_graph.to_quantise_operators(module)
        return module


def _recurrent_kinds() -> tuple[type[nn.Module], ...]:
    from torch import nn

    return (nn.RNNBase, nn.RNNCellBase)


def traced(model: nn.Module, task: Task) -> fx.GraphModule:
    """The net as a graph of aten's operators, in eval mode, its batch axis free. Raises CompressionError."""
    from torch import fx

    model.eval()
    try:
        program = trace(model, sample(task.example, 2), dynamic_batch=True)  # one example may be taken for a constant
        with quiet():
            module = program.module(check_guards=False)
    except COMPILER_ERRORS as error:
        message = " ".join(str(error).split())[:300]
        raise CompressionError(
            f"{QuantiseAware.kind}: the net cannot be traced ({type(error).__name__}: {message}); "
            "take sizes from the input's shape, and let nothing depend on the values of the input"
        ) from error
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    codegen: Any = graph._codegen
    single = codegen.pytree_info.out_spec.is_leaf()
    graph.set_codegen(fx.graph.CodeGen())  # that of torch.export cannot be copied without a warning,
    graph._tracer_cls = None  # nor with its tracer the net be read back from a file
    if single:
        (output,) = (node for node in graph.nodes if node.op == "output")
        output.args = (output.args[0][0],)
    return fx.GraphModule(module, graph)  # anew, because torch.export's refuses train() and eval()


def _watch(module: fx.GraphModule, task: Task) -> None:
    """Give each rounding the range of its tensor on the calibration split to start from. Raises CompressionError."""
    predict(module, task.calibration.spread(Calibration().examples))
    endless = integer_graph.without_bounds(module)
    if endless:
        raise CompressionError(
            f"{QuantiseAware.kind}: {', '.join(endless)} of the traced net holds NaN or infinity on the calibration "
            "split, for which int8 has no step; let a mask hold large finite numbers, or put it just before softmax"
        )


@contextmanager
def _rounding(module: fx.GraphModule, progress: float) -> Iterator[None]:
    integer_graph.set_mode(module, "learn" if progress < _FREEZE_AFTER else "keep")
    if module.training:
        yield
        return
    graph_rewrites.set_dropout(module, active=False)
    yield
    graph_rewrites.set_dropout(module, active=True)
