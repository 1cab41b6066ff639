"""The shapes of ResNet-18 and MobileNetV2 at 224x224 in plain torch: what they cost counts, not what they know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

SIDE = 224
CLASSES = 1000


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_convolution(before, after, 3, stride), nn.ReLU(), _convolution(after, after, 3, 1))
        self.adds_input = before == after and stride == 1
        self.shortcut = nn.Identity() if self.adds_input else _convolution(before, after, 1, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        return nn.functional.relu(self.layers(features) + self.shortcut(features))


class ResNet18(nn.Module):
    """Eleven million parameters, 1.8 GMAC (He et al. 2016, table 1)."""

    def __init__(self) -> None:
        super().__init__()
        stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        stages += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
        self.stem = nn.Sequential(_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(*(BasicBlock(*stage) for stage in stages))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, 224, 224) -> (n, 1000)."""
        logits: torch.Tensor = self.head(self.stages(self.stem(images)))
        return logits


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; a shortcut where the shapes allow it (Sandler et al. 2018)."""

    def __init__(self, before: int, after: int, stride: int, widening: int) -> None:
        super().__init__()
        inner = before * widening
        widen = [_convolution(before, inner, 1, 1), nn.ReLU6()] if widening > 1 else []
        depthwise = [_convolution(inner, inner, 3, stride, groups=inner), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *depthwise, _convolution(inner, after, 1, 1))
        self.adds_input = before == after and stride == 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        out: torch.Tensor = self.layers(features)
        return features + out if self.adds_input else out


class MobileNetV2(nn.Module):
    """3.5 million parameters, 0.3 GMAC (Sandler et al. 2018, table 2)."""

    def __init__(self) -> None:
        super().__init__()
        stages = [
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]
        layers: list[nn.Module] = [_convolution(3, 32, 3, 2), nn.ReLU6()]
        before = 32
        for widening, after, repeats, stride in stages:
            for at in range(repeats):
                layers.append(InvertedResidual(before, after, stride if at == 0 else 1, widening))
                before = after
        self.features = nn.Sequential(*layers, _convolution(before, 1280, 1, 1), nn.ReLU6())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, 224, 224) -> (n, 1000)."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def _convolution(before: int, after: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)
    )


def images(count: int, seed: int) -> np.ndarray:
    """Structured noise of shape (count, 3, 224, 224): textures at five scales, each image with its own mixture and hue.

    White noise would average out in the first layers, and every image would look the same to the last.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, SIDE, SIDE)
    for cells in (2, 7, 14, 56, SIDE):
        strength = 2 * torch.rand(count, 3, 1, 1, generator=generator) ** 2
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        total += strength * nn.functional.interpolate(coarse, SIDE, mode="bilinear", align_corners=False)
    total += torch.randn(count, 3, 1, 1, generator=generator)
    array: np.ndarray = total.numpy()
    return array


def settled(factory: Callable[[], nn.Module], passes: int = 6, batch: int = 8) -> nn.Module:
    """A net with seeded weights whose batch norms have seen `passes` batches of images; in eval mode.

    Its last bias makes the mean over those images 0 for each class: else a few classes would win everywhere.
    """
    torch.manual_seed(0)
    net = factory()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            # As in a trained net, channels differ in strength: that is what one scale per channel is there for.
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            module.momentum = None  # the plain mean over the passes
    for module in net.modules():
        if isinstance(module, BasicBlock | InvertedResidual) and module.adds_input:
            # As in a trained net, a block corrects what it is given and does not replace it.
            norms = [inner for inner in module.layers.modules() if isinstance(inner, nn.BatchNorm2d)]
            nn.init.uniform_(norms[-1].weight, 0.1, 0.5)
    batches = [torch.from_numpy(images(batch, 100 + at)) for at in range(passes)]
    with torch.no_grad():
        net.train()
        for drawn in batches:
            net(drawn)
        net.eval()
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        last.bias.sub_(torch.cat([net(drawn) for drawn in batches]).mean(0))
    return net
