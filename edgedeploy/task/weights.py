"""Weights come from anywhere: read them without running what they hold, and say plainly when they do not fit."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import PlanError

if TYPE_CHECKING:
    import torch
    from torch import nn


def read_weights(file: Path, *, into: nn.Module) -> None:
    """Fill the net from a `.safetensors` file or from a state dict that `torch.save` wrote. Raises PlanError."""
    if not file.is_file():
        raise PlanError(f"{file}: no such weights file; train them with `edgedeploy train` or correct [task] weights")
    state = _safetensors(file) if file.suffix == ".safetensors" else _torch(file)
    _check_fit(file, state, into.state_dict())
    into.load_state_dict(state)


def _safetensors(file: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: Mapping[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise PlanError(f"{file}: not a readable safetensors file ({error})") from error
    return state


def _torch(file: Path) -> Mapping[str, torch.Tensor]:
    import torch

    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is not None:
            raise PlanError(
                f"{file}: holds code ({named[1]}), not weights alone, and is refused unread; "
                "save model.state_dict(), best as .safetensors"
            ) from error
        raise PlanError(f"{file}: not a weights file that torch.save wrote") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise PlanError(f"{file}: not a readable weights file ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise PlanError(f"{file}: holds no plain state dict of tensors; save model.state_dict()")
    return state


def _check_fit(file: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    complaints = [f"{key} is missing" for key in wanted if key not in found]
    complaints += [f"{key} is unknown to the net" for key in found if key not in wanted]
    complaints += [
        f"{key} is {tuple(found[key].shape)} where the net has {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if complaints:
        more = f", and {len(complaints) - 3} more" if len(complaints) > 3 else ""
        raise PlanError(f"{file}: the weights do not fit the net of model(): {', '.join(complaints[:3])}{more}")
