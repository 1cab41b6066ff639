"""Holds a quantised file to what its recipe may lose, and gives layers back to float until it does."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedeploy import export
from edgedeploy.errors import AccuracyError
from edgedeploy.evaluate import Evaluation, drop, evaluate, worst_drop
from edgedeploy.export import Exported, FloatFile
from edgedeploy.export.parity import relative_rms_error
from edgedeploy.exported_file import interleaved_us
from edgedeploy.records import LayerSensitivity, Target

# Raise it whenever the guard would give back other layers for the same file and the same limit.
VERSION = 1

# Each step of a scan is a whole export, of seconds: more layers than this are taken in groups of neighbours.
MOST_STEPS = 24

# Two files of the same operators differ by about this share of their latency: less is no cost that can be measured.
_NOISE = 0.02

_TOLD_STEPS = 12


@dataclass(frozen=True, slots=True)
class Guarded:
    """A file that was let through, the layers that had to stay in float for it, and what they were chosen by."""

    exported: Exported
    kept_float: tuple[str, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()


@dataclass(frozen=True, slots=True)
class _Tried:
    """One file on the selection split: what it loses, what it may lose, and how far its outputs stray."""

    exported: Exported
    drop: float
    worst: float
    error: float


@dataclass(frozen=True, slots=True)
class _Step:
    """Layers that go back to float together, what that alone does, and how much of drop and error it buys a us."""

    layers: tuple[str, ...]
    does: LayerSensitivity
    worth: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Guard:
    """What is asked of one file.

    `source` is the source net on the selection split, the one split that the guard ever looks at; `max_drop` is
    what may be lost of the metric with 95 % confidence (`evaluate.worst_drop`); `folder` takes the files.
    """

    float_file: FloatFile
    target: Target
    source: Evaluation
    max_drop: float
    folder: Path
    say: Callable[[str], None] = lambda _: None

    def export(self) -> Guarded:
        """The file as its target says where that loses little enough, else with as few layers in float as suffice.

        Each layer in turn is kept in float to see what that buys; those go back first that buy most of the metric
        (where that is the same, of the outputs' error) for the time they cost, and halving finds how many. Raises
        AccuracyError, with the table of layers, where nothing short of all of them suffices.
        """
        whole = self._try(())
        if whole.worst <= self.max_drop:
            return Guarded(whole.exported)
        self._check_examples()
        steps = self._scan(whole)
        does = tuple(step.does for step in steps)
        found = self._fewest(steps)
        if found is None:
            raise AccuracyError(f"{self._refused(whole)}{_table(does)}")
        return Guarded(found[0].exported, _layers(found[1]), does)

    def _fewest(self, steps: list[_Step]) -> tuple[_Tried, list[_Step]] | None:
        """The file with the fewest of the steps, in their order, that is good enough; None where it needs all."""
        best, kept = self._good(steps[:-1]), steps
        if best is not None:
            few, many = 1, len(steps) - 1
            while few < many:
                middle = (few + many) // 2
                if (tried := self._good(steps[:middle])) is not None:
                    best, many = tried, middle
                else:
                    few = middle + 1
            kept = steps[:many]
        # Two layers that each ruin the file hide each other from the scan, so that others may have come before them.
        for step in kept[::-1]:
            fewer = [other for other in kept if other is not step]
            if (tried := self._good(fewer)) is not None:
                best, kept = tried, fewer
        return None if best is None else (best, kept)

    def _good(self, steps: Sequence[_Step]) -> _Tried | None:
        """The file with these steps in float where it loses little enough; with none it is known to lose more."""
        if not steps:
            return None
        layers = _layers(steps)
        self.say(f"keep {', '.join(layers)} in float")
        tried = self._try(layers)
        return tried if tried.worst <= self.max_drop else None

    def _try(self, layers: tuple[str, ...], folder: Path | None = None) -> _Tried:
        task = self.source.task
        place = folder or Path(tempfile.mkdtemp(dir=self.folder))
        exported = export.quantise(self.float_file, self.target, task, place, frozenset(layers))
        found = evaluate(exported.path, exported.contract, task, "selection")
        error = max(map(relative_rms_error, found.outputs, self.source.outputs))
        return _Tried(exported, drop(self.source, found).value, worst_drop(self.source, found), error)

    def _scan(self, whole: _Tried) -> list[_Step]:
        """What each layer alone buys, the best buy first."""
        groups = _groups(export.layers(self.float_file))
        steps = []
        for number, layers in enumerate(groups, start=1):
            name = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
            self.say(f"what {name} loses ({number}/{len(groups)})")
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                one = self._try(layers, Path(folder))
                files = [(tried.exported.path, tried.exported.contract) for tried in (whole, one)]
                before_us, after_us = interleaved_us(files, self.source.task.example)
            does = LayerSensitivity(name, whole.drop - one.drop, whole.error - one.error, after_us - before_us)
            price_us = max(does.latency_cost_us, _NOISE * before_us)
            steps.append(_Step(layers, does, (does.drop_recovered / price_us, does.error_recovered / price_us)))
        return sorted(steps, key=lambda step: step.worth, reverse=True)

    def _check_examples(self) -> None:
        least = worst_drop(self.source, self.source)
        if least > self.max_drop:
            raise AccuracyError(
                f"{self.target}: {len(self.source.targets)} selection examples cannot show, with 95 % confidence, that "
                f"{self.source.quality.metric} drops by less than {least:.4f}, and max_drop is {self.max_drop:g}; "
                "give more examples, or allow more"
            )

    def _refused(self, whole: _Tried) -> str:
        return (
            f"{self.target}: the file loses {whole.drop:.4f} of {self.source.quality.metric}, with 95 % confidence at "
            f"most {whole.worst:.4f}; max_drop is {self.max_drop:g}, and no layer that stays in float mends it; "
            "take a precision with more bits, or allow more"
        )


def _layers(steps: Sequence[_Step]) -> tuple[str, ...]:
    return tuple(layer for step in steps for layer in step.layers)


def _groups(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """Single layers, or as many groups of neighbours as a scan may take steps, of sizes that differ by one at most."""
    count = min(len(layers), MOST_STEPS)
    bounds = [len(layers) * i // count for i in range(count + 1)] if count else []
    return [tuple(layers[start:stop]) for start, stop in itertools.pairwise(bounds)]


def _table(does: Sequence[LayerSensitivity]) -> str:
    """A line for each of the best buys, with what it recovers and costs."""
    width = max((len(one.layer) for one in does[:_TOLD_STEPS]), default=0)
    lines = [
        f"\n  {one.layer:{width}}  recovers {one.drop_recovered:+.4f} of the metric, {one.error_recovered:+.2g} of the "
        f"outputs' error, costs {one.latency_cost_us:+.1f} us"
        for one in does[:_TOLD_STEPS]
    ]
    more = len(does) - _TOLD_STEPS
    return "".join(lines) + (f"\n  and {more} more that buy less" if more > 0 else "")
