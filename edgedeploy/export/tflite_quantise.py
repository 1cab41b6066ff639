"""fp16 and static int8 for TFLite, with ranges from the calibration split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.errors import ExportError
from edgedeploy.export.capture import CONVERTER_ERRORS
from edgedeploy.export.shared import calibration_examples
from edgedeploy.quiet import quiet
from edgedeploy.records import Calibration
from edgedeploy.task import Task

# Their variances and reciprocal roots span too many decades for eight bits: kept in float, a Transformer encoder
# is no less exact and 1.7 times as fast as all integer.
_NORMS = r"(?:Layer|Group|Instance|RMS)Norm"
# Named one by one, because a matrix product fused into a norm bears the norm's name.
_PARTS_OF_NORMS = (
    "ADD",
    "BROADCAST_TO",
    "DIV",
    "MEAN",
    "MUL",
    "RESHAPE",
    "RSQRT",
    "SQRT",
    "SQUARED_DIFFERENCE",
    "SUB",
    "SUM",
)


def to_fp16(source: Path) -> bytes:
    """Return the file with its weights as fp16; inputs, outputs and, on most CPUs, the arithmetic stay fp32."""
    with quiet():
        from ai_edge_quantizer import quantizer, recipe
        from ai_edge_quantizer.recipe_manager import RecipeManager

        wanted = RecipeManager()
        wanted.add_weight_only_config(
            regex=".*",
            operation_name=recipe.TFLOperationName.ALL_SUPPORTED,
            num_bits=16,
            algorithm_key=recipe.AlgorithmName.FLOAT_CASTING,
        )
        try:
            result = quantizer.Quantizer(str(source), wanted.get_quantization_recipe()).quantize()
        except CONVERTER_ERRORS as error:
            raise ExportError(f"ai-edge-quantizer cannot halve the net: {type(error).__name__}: {error}") from error
    return bytes(result.quantized_model)


def to_int8(source: Path, task: Task, batch: int = 1) -> tuple[bytes, tuple[str, ...]]:
    """Return the file as static int8, and notes on what stayed in float.

    Inputs and outputs are int8 too: as fast as float ones on a CNN, faster on a Transformer encoder, and what
    accelerators take. Raises ExportError.
    """
    with quiet():
        from ai_edge_litert.tools import flatbuffer_utils
        from ai_edge_quantizer import quantizer, recipe
        from ai_edge_quantizer.recipe_manager import RecipeManager

        wanted = RecipeManager()
        operation = recipe.TFLOperationName
        wanted.add_static_config(
            regex=".*", operation_name=operation.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
        )
        for name in _PARTS_OF_NORMS:
            wanted.add_quantization_config(
                regex=_NORMS, operation_name=operation(name), algorithm_key=recipe.AlgorithmName.NO_QUANTIZE
            )
        try:
            ranges = _calibrate(source, wanted, task, batch)
            result = quantizer.Quantizer(str(source), wanted.get_quantization_recipe()).quantize(ranges)
        except CONVERTER_ERRORS as error:
            raise ExportError(f"ai-edge-quantizer cannot quantise the net: {type(error).__name__}: {error}") from error
        content = bytes(result.quantized_model)
        return content, _notes(flatbuffer_utils.convert_bytearray_to_object(bytearray(content)))


def _calibrate(source: Path, wanted: Any, task: Task, batch: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    ((signature, tensors),) = Interpreter(str(source)).get_signature_list().items()
    names = sorted(tensors["inputs"], key=lambda name: int(name.rpartition("_")[2]))
    kinds = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}  # the file has no 64-bit inputs
    examples = [
        {name: array.astype(kinds.get(array.dtype, array.dtype)) for name, array in zip(names, example, strict=True)}
        for example in calibration_examples(task, Calibration(), batch)
    ]
    # The default is a moving average of the ranges, which cuts off every outlier: eight times the error on a GRU.
    calibrator = Calibrator(str(source), num_threads=1, qsv_update_func=min_max_update)
    calibrator.calibrate({signature: examples}, wanted)
    return calibrator.get_model_qsvs()


def _notes(model: Any) -> tuple[str, ...]:
    """Read off the file which operators still work in float."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    main = model.subgraphs[0]
    floats: Counter[str] = Counter()
    total = 0
    for operator in main.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if name in ("QUANTIZE", "DEQUANTIZE"):
            continue
        total += 1
        floats[name] += main.tensors[operator.outputs[0]].type == schema.TensorType.FLOAT32
    kept = sorted(name for name, count in floats.items() if count)
    if not kept:
        return ()
    return (f"{floats.total()} of {total} operators kept in float: {', '.join(kept)}",)
