"""What ai-edge-quantizer is asked to do for each precision of a TFLite file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgedeploy.errors import ExportError
from edgedeploy.export.flatbuffer import is_constant, operator_name
from edgedeploy.export.tflite_masks import meeting_masks
from edgedeploy.export.tflite_ranges import ranges, statistics
from edgedeploy.quiet import quiet
from edgedeploy.records import Calibration, Precision, Target
from edgedeploy.task import Task
from edgedeploy.tracing import COMPILER_ERRORS

# Their variances and reciprocal roots span too many decades for eight bits: kept in float, a Transformer encoder
# is no less exact and 1.7 times as fast as all integer.
NORMS = r":(?:Layer|Group|Instance|RMS)Norm;"
# Named one by one, because a matrix product fused into a norm bears the norm's name.
PARTS_OF_NORMS = (
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
# XNNPACK takes neither in integers: in float all around them is one delegate's, and a Transformer encoder 2 to 4
# times as fast and no larger.
ATTENTION = ("BATCH_MATMUL", "SOFTMAX")
# As dynamic int8 they take five times as long as in float on a small CNN: only their weights become integers.
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")

_LEVELS = {Precision.INT8: 1 << 8, Precision.INT16X8: 1 << 16}
_ACTIVATION_BITS = {Precision.INT8: 8, Precision.INT16X8: 16}


def quantise_named(source: Path, model: Any, target: Target, task: Task, kept: str | None) -> tuple[bytes, str | None]:
    """Return the file `source`, whose object tree is `model`, as `target` says, with all names.

    What `kept` fits stays in float, and so does what may meet a mask, of which the pattern is returned too. Raises
    ExportError.
    """
    with quiet():
        from ai_edge_quantizer import quantizer

        try:
            seen = masked = None
            if target.precision.calibrated:
                levels = _LEVELS[target.precision]
                found = ranges(source, model, task, target.calibration or Calibration(), levels)
                seen, masked = statistics(model, found), meeting_masks(model, found)
            wanted = _recipe(target.precision, kept, _constant_on_the_left(model), masked)
            result = quantizer.Quantizer(str(source), wanted.get_quantization_recipe()).quantize(seen)
        except COMPILER_ERRORS as error:
            raise ExportError(
                f"ai-edge-quantizer cannot make the net {target.precision}: {type(error).__name__}: {error}"
            ) from error
    return bytes(result.quantized_model), masked


def _recipe(precision: Precision, kept: str | None, left: str | None, masked: str | None) -> Any:
    """The rules of one precision, of which the last that fits an operator holds.

    `kept` and `masked` fit what stays in float, `left` the products whose weights come first.
    """
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.recipe_manager import RecipeManager

    operation, algorithm = recipe.TFLOperationName, recipe.AlgorithmName
    rules = RecipeManager()
    if precision is Precision.FP16:
        rules.add_weight_only_config(".*", operation.ALL_SUPPORTED, num_bits=16, algorithm_key=algorithm.FLOAT_CASTING)
    elif precision in (Precision.W8, Precision.W4):
        rules.add_weight_only_config(".*", operation.ALL_SUPPORTED, num_bits=8)
        if precision is Precision.W4:
            # Another pattern for the same: rules of one pattern replace each other. What has no int4 keeps int8.
            # One scale for each 32 weights would be finer, but LiteRT 2.3 fails on such products and answers wrongly
            # for such tables; on six nets OCTAV and MSE were as often worse than the plain range as better.
            rules.add_weight_only_config(".+", operation.ALL_SUPPORTED, num_bits=4)
    elif precision is Precision.INT8_DYNAMIC:
        rules.add_dynamic_config(".*", operation.ALL_SUPPORTED, num_bits=8)
        for name in CONVOLUTIONS:
            rules.add_weight_only_config(".+", _operation(name), num_bits=8)
        if left is not None:  # the kernel takes the range of its first factor alone
            rules.add_weight_only_config(left, operation.BATCH_MATMUL, num_bits=8)
    else:
        rules.add_static_config(
            ".*", operation.ALL_SUPPORTED, activation_num_bits=_ACTIVATION_BITS[precision], weight_num_bits=8
        )
        for pattern, names in ((NORMS, PARTS_OF_NORMS), (".+", ("SOFTMAX",))):
            for name in names:
                rules.add_quantization_config(pattern, _operation(name), algorithm_key=algorithm.NO_QUANTIZE)
        # Where one of its factors comes with the file, it is stored in integers all the same.
        rules.add_weight_only_config(".+", operation.BATCH_MATMUL, num_bits=8)
    if precision is not Precision.FP16:
        # Its kernel reads the rows it needs as they are; a dequantised table would be the size of the float one.
        rules.add_dynamic_config(".*;", operation.EMBEDDING_LOOKUP, num_bits=4 if precision is Precision.W4 else 8)
    for pattern in filter(None, (masked, kept)):
        rules.add_quantization_config(pattern, operation.ALL_SUPPORTED, algorithm_key=algorithm.NO_QUANTIZE)
    return rules


def _constant_on_the_left(model: Any) -> str | None:
    graph = model.subgraphs[0]
    names = [
        graph.tensors[operator.outputs[0]].name.decode()
        for operator in graph.operators
        if operator_name(model, operator) == "BATCH_MATMUL" and is_constant(model, graph, int(operator.inputs[0]))
    ]
    return f"^(?:{'|'.join(map(re.escape, names))});" if names else None


def _operation(name: str) -> Any:
    """The quantiser's own name of an operator, which in one case is not the schema's."""
    from ai_edge_quantizer import recipe

    return recipe.TFLOperationName({"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}.get(name, name))
