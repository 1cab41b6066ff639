"""The nets that are quantised: digits nets trained here, and the shapes of two image nets whose weights are random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedeploy.task import Arrays, Split, Task, predict

if TYPE_CHECKING:
    from torch import nn

EPOCHS = 40
IMAGES = {"train": 8, "calibration": 32, "selection": 16, "test": 96}


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A net with the task that it does.

    `trained` says whether its accuracy means anything; where not, the targets of its task are its own answers, and
    accuracy is how often a file agrees with them.
    """

    name: str
    net: nn.Module
    task: Task
    trained: bool


def digits() -> dict[str, Callable[[], Subject]]:
    """What trains each of the digits nets, by name."""
    from tools.bench import digits_nets as nets

    return {
        "digits CNN": lambda: digits_subject("digits CNN", nets.Cnn),
        "digits depthwise CNN": lambda: digits_subject("digits depthwise CNN", nets.DepthwiseCnn),
        "digits GRU": lambda: digits_subject("digits GRU", nets.Gru),
        "digits LSTM": lambda: digits_subject("digits LSTM", nets.Lstm),
        "digits Transformer": lambda: digits_subject("digits Transformer", nets.Transformer),
    }


def image_shapes() -> dict[str, Callable[[], Subject]]:
    """What makes each of the image nets, by name."""
    from tools.bench import image_nets as nets

    return {
        "ResNet-18 224x224": lambda: _image_subject("ResNet-18 224x224", nets.ResNet18),
        "MobileNetV2 224x224": lambda: _image_subject("MobileNetV2 224x224", nets.MobileNetV2),
    }


def digits_subject(name: str, model: Callable[[], nn.Module], epochs: int = EPOCHS, seed: int = 0) -> Subject:
    """A net trained on scikit-learn's digits, the same at each call; `seed` decides its start and its splits."""
    from edgedeploy.compress.training import FineTune, train_from_scratch

    task = digits_task(name, model, seed)
    net = model()
    net.load_state_dict(train_from_scratch(task, FineTune(epochs=epochs, learning_rate=3e-3, seed=seed)))
    return Subject(name, net.eval(), task, trained=True)


def digits_task(name: str, model: Callable[[], nn.Module], seed: int = 0) -> Task:
    """The task of naming scikit-learn's digits; `seed` decides the splits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    read = load_digits()
    images, targets = (read.images / 16).astype(np.float32), read.target.astype(np.int64)
    splits = {}
    for split, count in {"test": 397, "selection": 300, "calibration": 128}.items():
        images, held_out, targets, their_targets = train_test_split(
            images, targets, test_size=count, stratify=targets, random_state=seed
        )
        splits[split] = Split((held_out,), their_targets)
    return make_task(name, model, {"train": Split((images,), targets), **splits}, "accuracy")


def _image_subject(name: str, model: Callable[[], nn.Module]) -> Subject:
    from tools.bench.image_nets import images, settled

    net = settled(model)
    splits = {}
    for seed, (split, count) in enumerate(IMAGES.items()):
        inputs = (images(count, seed),)
        splits[split] = Split(inputs, predict(net, inputs, batch_size=16)[0].argmax(axis=1))
    return Subject(name, net, make_task(name, model, splits, "agreement"), trained=False)


def make_task(name: str, model: Callable[[], nn.Module], splits: dict[str, Split], metric: str) -> Task:
    """A task without a file, whose metric is the share of right classes under the name `metric`."""
    return Task(
        folder=Path(),
        name=name,
        digest="0" * 64,
        model=model,
        weights=None,
        example=(splits["train"].inputs[0][:1],),
        train=splits["train"],
        calibration=splits["calibration"],
        selection=splits["selection"],
        test=splits["test"],
        metric=_right,
        metric_name=metric,
        loss=None,
        labels=(),
        preprocessing="",
        layout=None,
    )


def _right(outputs: Arrays, targets: np.ndarray) -> np.ndarray:
    right: np.ndarray = outputs[0].argmax(axis=1) == targets
    return right.astype(np.float64)
