"""Watches a recipe at work, so that each pass answers for what it did to accuracy, arithmetic, weights and bytes."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy import export, packing
from edgedeploy.build.layers import layer_accounts
from edgedeploy.compress.macs import count_macs
from edgedeploy.errors import ExportError, PlanError
from edgedeploy.evaluate import Evaluation, drop, evaluate_model
from edgedeploy.export import FloatFile
from edgedeploy.quiet import quiet
from edgedeploy.records import EXPORT, SOURCE, Drop, Format, LayerAccount, Quality, StepAccount
from edgedeploy.task import Task

if TYPE_CHECKING:
    from torch import nn

# What a net that holds a hook, an open file or a lambda raises when it is copied.
_NOT_COPIED = (RuntimeError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One step's account as far as it is the same in every format, and the net to make files of.

    `net` is None where it could not be copied, and for the last step, whose net is the one that is exported.
    `as_before` says that its file is that of the step before.
    """

    account: StepAccount
    net: nn.Module | None
    as_before: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """What the passes made of a net, how they came there, and what is left in its layers."""

    net: nn.Module
    stages: tuple[Stage, ...]
    layers: tuple[LayerAccount, ...]


class Watch:
    """Takes the account of one recipe while its passes run."""

    def __init__(self, model: nn.Module, task: Task, source: Evaluation, passes: int) -> None:
        """Begin with the net as it is; `source` says how good it is on the selection split."""
        self._task, self._source, self._passes = task, source, passes
        first = replace(_counted(SOURCE, model, task), quality=source.quality)
        self._stages = [Stage(first, _copied(model) if passes else None)]

    def see(self, kind: str, model: nn.Module) -> None:
        """Add the net after a pass."""
        account = _counted(kind, model, self._task)
        try:
            found = evaluate_model(model, self._task, "selection")
        except (ExportError, PlanError):
            pass  # a later pass may mend it; if none does, its file is judged and says so
        else:
            account = replace(account, quality=found.quality, drop=drop(self._source, found))
        before = self._stages[-1].net
        last = len(self._stages) == self._passes
        self._stages.append(Stage(account, None if last else _copied(model), _same(before, model)))

    def end(self, model: nn.Module) -> Compressed:
        """The account, with the net that the passes left."""
        return Compressed(model, tuple(self._stages), layer_accounts(model))


class Sizes:
    """What the float32 files of an account take; those of the source are made once for each format and batch."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._source: dict[tuple[Format, int | None], tuple[int | None, int | None]] = {}

    def steps(self, stages: Sequence[Stage], own: FloatFile, folder: Path) -> Iterator[StepAccount]:
        """The account of each stage with its sizes in the format of `own`, the file of the last one."""
        kind = own.format, own.batch
        sizes: tuple[int | None, int | None] = None, None
        for number, stage in enumerate(stages):
            if stage is stages[-1]:
                sizes = self._of_file(own)
            elif number == 0 and kind in self._source:
                sizes = self._source[kind]
            elif not stage.as_before:
                sizes = self._of_net(stage.net, own, folder)
            if number == 0:
                self._source[kind] = sizes
            yield replace(stage.account, file_bytes=sizes[0], packed_bytes=sizes[1])

    def _of_net(self, net: nn.Module | None, like: FloatFile, folder: Path) -> tuple[int | None, int | None]:
        if net is None:
            return None, None
        with tempfile.TemporaryDirectory(dir=folder) as place:
            try:
                return self._of_file(export.convert(net, like.format, self._task, Path(place), like.batch))
            except ExportError:
                return None, None

    def _of_file(self, file: FloatFile) -> tuple[int | None, int | None]:
        try:
            content = export.float_content(file, self._task)
        except ExportError:
            return None, None
        return len(content), len(packed(content, file.format))


def exported_step(
    last: StepAccount, path: Path, file_format: Format, packed_bytes: int, quality: Quality, lost: Drop
) -> StepAccount:
    """The account of an exported file, whose net is that of the last step before; judged on the selection split."""
    return StepAccount(
        step=EXPORT,
        parameters=last.parameters,
        nonzero_parameters=None,
        macs=last.macs,
        parameter_bytes=export.constant_bytes(path, file_format),
        file_bytes=path.stat().st_size,
        packed_bytes=packed_bytes,
        quality=quality,
        drop=lost,
    )


@lru_cache(maxsize=2)  # the last step's file is often the exported one, which takes seconds to pack
def packed(content: bytes, file_format: Format) -> bytes:
    """The container that rebuilds a file."""
    return packing.pack(content, file_format).content


def _counted(step: str, model: nn.Module, task: Task) -> StepAccount:
    parameters = [parameter.detach() for parameter in model.parameters()]
    return StepAccount(
        step=step,
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero_parameters=sum(int((parameter != 0).sum()) for parameter in parameters),
        # A net that another runtime computes shows no operator: nothing was counted.
        macs=count_macs(model, task.example) or None,
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
    )


def _copied(model: nn.Module) -> nn.Module | None:
    try:
        with quiet():  # a program that torch saved warns when it is copied
            return copy.deepcopy(model)
    except _NOT_COPIED:
        return None


def _same(before: nn.Module | None, after: nn.Module) -> bool:
    """Whether two nets have the same modules and the same numbers in them."""
    import torch

    if before is None or str(before) != str(after):
        return False
    old, new = before.state_dict(), after.state_dict()
    return old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
