"""Both formats start from torch.export; what it or a converter cannot take is said here in the user's terms."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.errors import ExportError
from edgedeploy.quiet import quiet
from edgedeploy.tracing import COMPILER_ERRORS, trace

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

_OPERATORS = (
    re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'"),
    re.compile(r"Lowering not found: ([\w.]+)"),
    re.compile(r"target=torch\.ops\.([\w.]+)\]"),
)
_MLIR_NODE = re.compile(r'"\("(\w+)"\(')


def capture(model: nn.Module, inputs: tuple[torch.Tensor, ...], *, dynamic_batch: bool) -> ExportedProgram:
    """Trace the net to a graph. Raises ExportError, which names the line of the net that stands in the way."""
    import torch

    try:
        with torch.no_grad():
            return trace(model, inputs, dynamic_batch=dynamic_batch)
    except COMPILER_ERRORS as error:
        raise ExportError(_why_not_captured(error)) from error


def explain(error: Exception, model: nn.Module, inputs: tuple[torch.Tensor, ...], file_format: str) -> ExportError:
    """Turn a converter's exception into one sentence that names the operator and the module that uses it."""
    text = _whole_text(error)
    program = capture(model, inputs, dynamic_batch=False)  # the batch is not what a converter stumbles over
    node = _MLIR_NODE.search(text)
    operator = next((found[1] for pattern in _OPERATORS if (found := pattern.search(text))), None)
    if operator is None and node is not None:
        operator = next((str(n.target) for n in program.graph.nodes if n.name == node[1]), None)
    if operator is None:
        return ExportError(f"the net cannot be written as {file_format}: {first_line(error)}")
    name = ".".join(operator.replace("::", ".").split(".")[:2])
    where = _module_that_uses(name, program)
    module = f", used in module `{where}`," if where else ""
    return ExportError(f"the operator {name}{module} cannot be exported to {file_format}; replace it by others")


def _why_not_captured(error: Exception) -> str:
    text, line = str(error), _own_line(error)
    at = f" at {line}" if line else ""
    if "data-dependent" in text:
        return (
            f"the net's control flow{at} depends on the values of its input, which no exported file can follow; "
            "let shapes alone decide, or use torch.where or torch.cond"
        )
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        return (
            "the net fixes the size of its batch axis, so a file of it would take no other; "
            "look for a constant in a reshape or an initial state, and take it from the input's shape"
        )
    return f"the net cannot be traced{at}: {first_line(error)}"


def _own_line(error: Exception) -> str | None:
    """The innermost line of the traceback that is neither torch's nor ours: the user's net."""
    import torch

    foreign = (Path(torch.__file__).parent, Path(__file__).parent.parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in foreign):
            return None if "/contextlib.py" in frame.filename else f"{frame.filename}:{frame.lineno}"
    return None


def _module_that_uses(operator: str, program: ExportedProgram) -> str | None:
    base = operator.rpartition(".")[2].lstrip("_")
    with quiet():
        graphs = (program.graph, program.run_decompositions().graph)
    for graph in graphs:
        for node in graph.nodes:
            parts = str(node.target).split(".")
            if node.op == "call_function" and len(parts) > 1 and parts[1].lstrip("_").endswith(base):
                stack = list(node.meta.get("nn_module_stack", {}).values())
                return stack[-1][0] if stack else None
    return None


def _whole_text(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def first_line(error: Exception) -> str:
    """The type of an exception, and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
