import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.compress.training import save_weights
from edgedeploy.errors import PlanError
from edgedeploy.task import load_task
from tests.support.nets import write_task

pytestmark = pytest.mark.builds


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


def refusal(file: Path, weights: Path) -> str:
    with pytest.raises(PlanError) as caught:
        load_task(file, weights)
    assert str(caught.value).startswith(str(weights))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_come_back_as_they_were_saved(tmp_path: Path, name: str) -> None:
    import torch

    file = write_task(tmp_path)
    state = {key: torch.full_like(value, 0.5) for key, value in load_task(file, None).model().state_dict().items()}
    if name.endswith(".pt"):
        torch.save(state, tmp_path / name)
    else:
        save_weights(state, tmp_path / name)
    loaded = load_task(file, tmp_path / name).load_model().state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("archive", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, archive: bool) -> None:
    import torch

    mark, weights = tmp_path / "ran", tmp_path / "weights.pt"
    if archive:
        torch.save({"0.weight": Malicious(mark)}, weights)
    else:
        weights.write_bytes(pickle.dumps({"0.weight": Malicious(mark)}, protocol=2))
    message = refusal(write_task(tmp_path), weights)
    assert "holds code (posix.system)" in message
    assert "is refused" in message
    assert not mark.exists()


def test_a_whole_pickled_net_is_refused_with_the_mend(tmp_path: Path) -> None:
    import torch

    task = load_task(write_task(tmp_path), None)
    torch.save(task.model(), tmp_path / "weights.pt")
    assert "save model.state_dict()" in refusal(tmp_path / "task.py", tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(64), b"PK\x03\x04 broken"])
def test_rubbish_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "not a" in refusal(write_task(tmp_path), tmp_path / name)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    assert "edgedeploy train" in refusal(write_task(tmp_path), tmp_path / "weights.safetensors")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    import torch

    file = write_task(tmp_path)
    state = load_task(file, None).model().state_dict()
    state["0.weight"] = torch.ones(16, 5)
    state["extra.one"] = state.pop("2.bias")
    save_weights(state, tmp_path / "w.safetensors")
    message = refusal(file, tmp_path / "w.safetensors")
    assert "2.bias is missing" in message
    assert "extra.one is unknown to the net" in message
    assert "0.weight is (16, 5) where the net has (16, 4)" in message
    save_weights({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.safetensors")
    assert "and 5 more" in refusal(file, tmp_path / "w.safetensors")
    torch.save({"epoch": 3, "state": state}, tmp_path / "w.pt")
    assert "no plain state dict" in refusal(file, tmp_path / "w.pt")


def test_weights_that_give_nan_are_refused(tmp_path: Path) -> None:
    file = write_task(tmp_path)
    state = load_task(file, None).model().state_dict()
    state["2.bias"][1] = float("nan")
    save_weights(state, tmp_path / "w.safetensors")
    with pytest.raises(PlanError, match=r"w\.safetensors holds NaN or infinity on example\(\)"):
        load_task(file, tmp_path / "w.safetensors")
