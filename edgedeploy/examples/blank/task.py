"""Your task. edgedeploy reads this file: replace each part by your own and keep the names.

As it stands it runs: a small net tells four states of a machine apart from three vibration sensors. The data are
made up, so that there is something to train before yours are in.
"""

from pathlib import Path

import numpy as np
from torch import nn

# What metric() measures, in one word.
METRIC = "accuracy"

# Names of the classes, in the order of the net's outputs. Leave it out if there are no classes.
LABELS = ("steady", "slow swing", "fast swing", "knocking")

# What was done to the raw data, in words. It travels with the model, for whoever feeds it on the board.
PREPROCESSING = "acceleration in g, 64 samples of each sensor"

# "NCHW" or "NHWC" where the input is a picture. Leave it out otherwise, as here.
# LAYOUT = "NCHW"

# Read files relative to this one, so that the task can be run from any folder.
FOLDER = Path(__file__).parent


def model() -> nn.Module:
    """Build the net, without weights. Its forward() takes what example() returns.

    Take sizes in forward() from the tensors, not from constants: pruning makes layers narrower.
    """
    return nn.Sequential(
        nn.Conv1d(3, 32, kernel_size=5, padding=2),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 64, kernel_size=5, padding=2),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(64, len(LABELS)),
    )


def example() -> np.ndarray:
    """Return one input with the batch axis first; a tuple of arrays if the net has several inputs."""
    return np.zeros((1, 3, 64), dtype=np.float32)


def data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return four parts of (inputs, targets) that share no example; arrays or torch tensors.

    train         what the weights are trained on
    calibration   about 100 inputs, to find the range of the numbers for int8
    selection     decides which variants are good enough
    test          only reported, never decided by

    The same arrays must come back each time: seed whatever is random. For files of your own, for instance:

        with np.load(FOLDER / "data.npz") as file:
            return {part: (file[part + "_x"], file[part + "_y"]) for part in ("train", ...)}
    """
    random = np.random.default_rng(0)
    return {
        part: recordings(random, count)
        for part, count in {"train": 800, "calibration": 100, "selection": 300, "test": 400}.items()
    }


def metric(outputs: tuple[np.ndarray, ...], targets: np.ndarray) -> np.ndarray:
    """Return one score for each example, higher is better; `outputs` holds one array for each output of the net.

    Where only one number for all makes sense, return that: it costs the paired comparison of variants.
    """
    return outputs[0].argmax(axis=1) == targets


# Cross-entropy for whole-number targets and mean squared error for the rest are used unless you define
#
# def loss(output, target):
#     return nn.functional.huber_loss(output, target)


def recordings(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Make up vibrations: delete this once data() reads your own."""
    targets = random.integers(len(LABELS), size=count)
    time = np.linspace(0, 1, 64)
    frequency = np.choose(targets, [0.0, 3.0, 9.0, 0.0])[:, None, None]
    phase = random.uniform(0, 2 * np.pi, size=(count, 3, 1))
    swing = np.sin(2 * np.pi * frequency * time + phase) * (frequency > 0)
    knocks = 3 * (random.random((count, 3, 64)) < 0.08) * (targets == 3)[:, None, None]
    noise = random.normal(scale=0.8, size=(count, 3, 64))
    return (swing + knocks + noise).astype(np.float32), targets
