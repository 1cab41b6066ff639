"""The one way to run an exported file, on the host and on the board: prepare, invoke, finish."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import runtime_litert, runtime_onnx
from .accelerators import ON_CPU
from .failures import RuntimeUnavailable, UnsupportedModel, refusal
from .tensors import static_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol  # novm: for the reader and the type checker alone

    import numpy as np

    Array = np.ndarray[Any, Any]

    class Session(Protocol):
        """A file loaded by one runtime; what an adapter returns."""

        errors: tuple[type[Exception], ...]  # what prepare and invoke may raise: the runtime's own

        def prepare(self, inputs: list[Array]) -> Any:
            """Turn real-valued inputs into what `invoke` takes."""

        @property
        def invoke(self) -> Callable[[Any], Any]:
            """Runs once: the runtime's own call and nothing else."""

        def finish(self, raw: Any) -> list[Array]:
            """Turn what `invoke` gave into real-valued outputs in the contract's order."""

        @property
        def placement(self) -> Callable[[Any], dict[str, int] | None]:
            """Counts nodes by what took them, from what `prepare` gave; None where the runtime does not tell."""


__all__ = ["RUNTIMES", "Model", "RuntimeUnavailable", "UnsupportedModel", "import_runtime", "open_model"]

# format -> (name, module, adapter), tried in this order. An adapter is called with the imported module, path,
# contract, number of threads and accelerator (see accelerators.py); it returns a Session or raises UnsupportedModel.
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
        self.prepare = session.prepare
        self.invoke = session.invoke
        self.finish = session.finish
        self._placement = session.placement
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

    def placement(self, inputs: list[Array]) -> dict[str, int] | None:
        """Return the number of the file's nodes by what takes them when it runs on one batch of `inputs`.

        "cpu" is the runtime's own kernels, the name of the accelerator that was asked for is that accelerator, other
        names are the runtime's. None where the runtime does not tell. Raises UnsupportedModel, OSError, ValueError.
        """
        try:
            return self._placement(self.prepare(inputs))
        except self._errors as error:
            raise refusal(error) from error

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


def open_model(
    path: str, contract: dict[str, Any], threads: int = 1, accelerator: dict[str, Any] | None = None
) -> Model:
    """Load `path` with the first runtime for the contract's format that can be imported.

    `accelerator` is as accelerators.py describes it, the CPU by default.
    Raises RuntimeUnavailable where no runtime can be imported, UnsupportedModel where it cannot load the file or
    lacks the accelerator, OSError where the folder cannot be made.
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
        return Model(name, version, load(imported, path, contract, threads, accelerator or ON_CPU), contract)
    raise RuntimeUnavailable(" or ".join(name for name, _, _ in known), "; ".join(reasons))
