"""A pass for nets of any family: it works where the net has something for it, and is left out elsewhere."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgedeploy.compress.findings import note
from edgedeploy.errors import NothingToDo
from edgedeploy.records import Pass

if TYPE_CHECKING:
    from torch import nn

    from edgedeploy.task import Task


@dataclass(frozen=True, slots=True)
class OptionalPass:
    """Do what `pass` says where the net has something for it; elsewhere leave the net alone, and note why.

    Any other failure of the pass is one of the recipe, as ever.
    """

    kind: ClassVar[str] = "optional"
    version: ClassVar[int] = 1
    tools: ClassVar[tuple[str, ...]] = ("torch",)
    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True}  # for a field typed as Pass

    pass_: Pass

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """What the pass gives, or the net as it was, with a note. Raises CompressionError."""
        before = copy.deepcopy(model)  # a pass may have begun when it finds that it can do nothing
        try:
            return self.pass_.apply(model, task)
        except NothingToDo as nothing:
            note(before, f"left out {nothing}")
            return before
