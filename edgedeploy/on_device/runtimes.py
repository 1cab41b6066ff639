"""The one way to run an exported file, on the host and on the board: prepare, invoke, finish."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import runtime_litert, runtime_onnx
from .failures import RuntimeUnavailable, UnsupportedModel, refusal
from .tensors import static_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol  # novm: for the reader and the type checker alone

    import numpy as np

    Array = np.ndarray[Any, Any]

    class Session(Protocol):
        """A file loaded by one runtime; what an adapter returns."""

        accelerator_used: str
        errors: tuple[type[Exception], ...]  # what prepare and invoke may raise: the runtime's own

        def prepare(self, inputs: list[Array]) -> Any:
            """Turn real-valued inputs into what `invoke` takes."""

        @property
        def invoke(self) -> Callable[[Any], Any]:
            """Runs once: the runtime's own call and nothing else."""

        def finish(self, raw: Any) -> list[Array]:
            """Turn what `invoke` gave into real-valued outputs in the contract's order."""


__all__ = ["RUNTIMES", "Model", "RuntimeUnavailable", "UnsupportedModel", "import_runtime", "open_model"]

# format -> (name, module, adapter), tried in this order. An adapter is called with the imported module, path,
# contract, number of threads and accelerator; it returns a Session or raises UnsupportedModel.
RUNTIMES: dict[str, tuple[tuple[str, str, Callable[..., Session]], ...]] = {
    "onnx": (("onnxruntime", "onnxruntime", runtime_onnx.load),),
    "tflite": (
        ("ai_edge_litert", "ai_edge_litert.interpreter", runtime_litert.load),
        ("tflite_runtime", "tflite_runtime.interpreter", runtime_litert.load),
    ),
}


class Model:
    """A file ready to run.

    `prepare`, `invoke` and `finish` are the adapter's own methods, so that timing `invoke` times the runtime.
    What `prepare` returned is good until the next `prepare`; what `invoke` returned, until the next `invoke`. Both
    raise the runtime's own errors, which `run` translates.
    """

    def __init__(self, runtime: str, version: str, session: Session, contract: dict[str, Any]) -> None:
        self.runtime = runtime
        self.version = version
        self.accelerator_used = session.accelerator_used
        self.prepare = session.prepare
        self.invoke = session.invoke
        self.finish = session.finish
        self._errors = session.errors
        self._batch = static_batch(contract)

    def run(self, inputs: list[Array]) -> list[Array]:
        """Return the outputs for any number of examples along the first axis, in real values.

        A file of static batch runs batch by batch. Raises UnsupportedModel where the runtime refuses,
        ValueError where the number of examples is no multiple of the batch.
        """
        examples = len(inputs[0])
        batch = self._batch
        if batch is None or batch == examples:
            return self._run(inputs)
        if not examples or examples % batch:
            raise ValueError(f"the file takes {batch} examples at once; {examples} is no multiple of it")
        import numpy as np

        starts = range(0, examples, batch)
        parts = [self._run([array[start : start + batch] for array in inputs]) for start in starts]
        return [np.concatenate(column) for column in zip(*parts)]

    def _run(self, inputs: list[Array]) -> list[Array]:
        try:
            return self.finish(self.invoke(self.prepare(inputs)))
        except self._errors as error:
            raise refusal(error) from error


def import_runtime(name: str, module: str) -> tuple[Any, str]:
    """Return the imported module and the runtime's version. Raises RuntimeUnavailable."""
    try:
        imported = importlib.import_module(module)
        package = importlib.import_module(name)
    # A wheel built for another C library or numpy fails in the dynamic loader or on a missing attribute.
    except (ImportError, OSError, AttributeError) as error:
        raise RuntimeUnavailable(name, str(error).strip().split("\n")[0][:300]) from error
    return imported, str(getattr(package, "__version__", ""))


def open_model(path: str, contract: dict[str, Any], threads: int = 1, accelerator: str = "cpu") -> Model:
    """Load `path` with the first runtime for the contract's format that can be imported.

    Raises RuntimeUnavailable where none can, UnsupportedModel where it cannot load the file or lacks the
    accelerator.
    """
    known = RUNTIMES.get(contract["format"])
    if known is None:
        raise UnsupportedModel(f"format {contract['format']!r} is none of {', '.join(sorted(RUNTIMES))}")
    reasons = []
    for name, module, load in known:
        try:
            imported, version = import_runtime(name, module)
        except RuntimeUnavailable as error:
            reasons.append(str(error.__cause__))
            continue
        return Model(name, version, load(imported, path, contract, threads, accelerator), contract)
    raise RuntimeUnavailable(" or ".join(name for name, _, _ in known), "; ".join(reasons))
