"""Six families of small nets for 8x8 digits, in plain torch, so that a peer's environment can load them too."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10


class Mlp(nn.Module):
    """LeNet-300-100 on 8x8 images: 51 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, CLASSES)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, 8, 8) -> (n, 10)."""
        logits: torch.Tensor = self.layers(rows)
        return logits


class Cnn(nn.Module):
    """Three convolutions with batch norm; 97 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_convolution(1, 32, 1), _convolution(32, 64, 2), _convolution(64, 128, 2))
        self.head = nn.Linear(128, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, 8, 8) -> (n, 10)."""
        logits: torch.Tensor = self.head(self.features(rows[:, None]).mean((2, 3)))
        return logits


class DepthwiseCnn(nn.Module):
    """Depthwise and pointwise convolutions by turns with batch norm and ReLU6, as mobile nets have them."""

    def __init__(self) -> None:
        super().__init__()
        layers = [_convolution(1, 32, 1, relu=nn.ReLU6)]
        for before, after, stride in ((32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
            layers.append(_convolution(before, before, stride, groups=before, relu=nn.ReLU6))
            layers.append(_convolution(before, after, 1, kernel=1, relu=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, 8, 8) -> (n, 10)."""
        logits: torch.Tensor = self.head(self.features(rows[:, None]).mean((2, 3)))
        return logits


class Gru(nn.Module):
    """Reads the rows of the image one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(8, 96, batch_first=True)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, 8, 8) -> (n, 10)."""
        states, _ = self.recurrent(rows)
        logits: torch.Tensor = self.head(states[:, -1])
        return logits


class Lstm(nn.Module):
    """The same with four gates and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 96, batch_first=True)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, 8, 8) -> (n, 10)."""
        states, _ = self.recurrent(rows)
        logits: torch.Tensor = self.head(states[:, -1])
        return logits


class Transformer(nn.Module):
    """Two encoder layers over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.position = nn.Parameter(0.1 * torch.randn(1, 8, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, 8, 8) -> (n, 10)."""
        logits: torch.Tensor = self.head(self.encoder(self.embed(rows) + self.position).mean(1))
        return logits


def _convolution(
    before: int, after: int, stride: int, kernel: int = 3, groups: int = 1, relu: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after), relu()
    )
