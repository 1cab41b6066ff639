"""Looks at tensors inside a TFLite file while LiteRT runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export.capture import first_line
from edgedeploy.on_device.tensors import to_file
from edgedeploy.quiet import quiet
from edgedeploy.task import Arrays


def tracer(content: bytes, names: Collection[str]) -> Callable[[Arrays], dict[str, np.ndarray]]:
    """What runs the file on inputs and gives the tensors of these names that are there, in real values.

    The interpreter's own kernels run, without XNNPACK, which keeps inner tensors to itself. Raises ExportError where
    the file does not run.
    """
    with quiet():
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        try:
            interpreter = Interpreter(
                model_content=content,
                num_threads=1,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            interpreter.allocate_tensors()
            ((_, signature),) = interpreter.get_signature_list().items()
            given = interpreter.get_signature_runner().get_input_details()
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"LiteRT refuses the file with its tensors kept: {first_line(error)}") from error
    order = sorted(signature["inputs"], key=lambda name: int(name.rpartition("_")[2]))
    seen = {one["name"]: one for one in interpreter.get_tensor_details() if one["name"] in names}

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        with quiet():
            for name, array in zip(order, arrays, strict=True):
                interpreter.set_tensor(given[name]["index"], to_file(array, _stored(given[name])))
            interpreter.invoke()
        return {name: _real(interpreter.get_tensor(detail["index"]), detail) for name, detail in seen.items()}

    return run


def _stored(detail: dict[str, Any]) -> dict[str, Any]:
    scales, zero_points = (detail["quantization_parameters"][key] for key in ("scales", "zero_points"))
    quantised = len(scales) > 0
    return {
        "type": np.dtype(detail["dtype"]).name,
        "scale": float(scales[0]) if quantised else None,
        "zero_point": int(zero_points[0]) if quantised else None,
    }


def _real(array: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Dequantised by the tensor's own scales, one for each slice of an axis where there are several."""
    parameters = detail["quantization_parameters"]
    if not len(parameters["scales"]) or np.issubdtype(array.dtype, np.floating):
        return array.copy()
    shape = [1] * array.ndim
    if len(parameters["scales"]) > 1:
        shape[parameters["quantized_dimension"]] = -1
    zero_points = np.asarray(parameters["zero_points"]).reshape(shape if len(parameters["zero_points"]) > 1 else -1)
    result: np.ndarray = (array - zero_points.astype(np.float64)) * parameters["scales"].reshape(shape)
    return result
