"""Small random nets, one for each thing that nets are made of, with inputs to try them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

EXAMPLES = 32
VOCABULARY, LENGTH, WIDTH = 11, 4, 8


def images(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda random: random.normal(size=(EXAMPLES, *shape)).astype(np.float32)


def tokens(kind: type) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda random: random.integers(0, VOCABULARY, (EXAMPLES, LENGTH)).astype(kind)


def padding(random: np.random.Generator) -> np.ndarray:
    """True from some place on, as nn.MultiheadAttention wants it; the first is never padding."""
    mask: np.ndarray = np.arange(LENGTH) >= random.integers(1, LENGTH + 1, (EXAMPLES, 1))
    return mask


class Residual(nn.Module):
    """A plain stem, a residual block with a strided shortcut, pooling of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
        self.shortcut = nn.Conv2d(4, 8, 1, 2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem = self.stem(images)
        logits: torch.Tensor = self.head(self.body(stem) + self.shortcut(stem))
        return logits


class Mobile(nn.Module):
    """An inverted residual with depthwise convolution and squeeze-excite, as MobileNetV3 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU())
        self.excite = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Hardsigmoid())
        self.project = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        wide = self.depthwise(self.expand(images))
        narrow = images + self.project(wide * self.excite(self.squeeze(wide)))
        logits: torch.Tensor = self.head(narrow.mean((2, 3)))
        return logits


class Decoder(nn.Module):
    """Down by a dilated convolution with group norm, up by a transposed one and by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(2, 8, 3, 2, 2, dilation=2), nn.GroupNorm(2, 8), nn.GELU())
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.skip = nn.Conv2d(2, 4, 1)
        self.last = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        up = torch.cat([self.up(self.down(images)), self.skip(images)], 1)
        picture: torch.Tensor = self.last(F.interpolate(up, scale_factor=2.0, mode="nearest")).sigmoid()
        return picture


class Wave(nn.Module):
    """Causal one-dimensional convolutions, as sound and sensors want them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 8, 3)
        self.second = nn.Conv1d(8, 8, 3, dilation=2)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        hidden = self.first(F.pad(signal, (2, 0))).relu()
        hidden = self.norm(self.second(F.pad(hidden, (4, 0)))).tanh()
        logits: torch.Tensor = self.head(F.avg_pool1d(hidden, 4).flatten(2).amax(2))
        return logits


class Lstm(nn.Module):
    """Two layers in two directions; gives the whole sequence and the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, WIDTH, 2, batch_first=True, bidirectional=True)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        whole, (hidden, cell) = self.lstm(rows)
        return whole, hidden.transpose(0, 1), cell.transpose(0, 1)


class LastStates(nn.Module):
    """An LSTM with time first inside and a GRU with the batch first, one layer in one direction; their last states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, WIDTH)
        self.gru = nn.GRU(4, WIDTH, batch_first=True)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.lstm(rows.transpose(0, 1))[1][0][-1], self.gru(rows)[0][:, -1]


class Gru(nn.Module):
    """Two layers in two directions, time first inside, from a state that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, WIDTH, 2, bidirectional=True)

    def forward(self, rows: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whole, last = self.gru(rows.transpose(0, 1), state.transpose(0, 1).contiguous())
        return whole.transpose(0, 1), last.transpose(0, 1)


class Encoder(nn.Module):
    """nn.TransformerEncoder over tokens, causal, with the padding as a second input."""

    causal: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.register_buffer("causal", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1))

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens) + self.position
        encoded: torch.Tensor = self.encoder(hidden, mask=self.causal, src_key_padding_mask=padding)
        return encoded


class Attention(nn.Module):
    """Attention written by hand, with a float mask, and the library's own over it."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.multihead = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), float("-inf")).triu(1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        query, key, value = self.project(hidden).chunk(3, -1)
        weights = (query @ key.transpose(1, 2) / WIDTH**0.5 + self.mask).softmax(-1)
        hidden = self.norm(hidden + weights @ value)
        attended, _ = self.multihead(hidden, hidden, hidden, attn_mask=self.mask, need_weights=False)
        dotted = F.scaled_dot_product_attention(attended, hidden, hidden, is_causal=True)
        logits: torch.Tensor = self.head(dotted).mean(1)
        return logits


class Seen(NamedTuple):
    """What TwoHeads gives: a tuple whose parts have names."""

    classes: torch.Tensor
    best: torch.Tensor
    box: torch.Tensor


class TwoHeads(nn.Module):
    """A picture and numbers beside it in, logits, the best class and a box out."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Flatten())
        self.numbers = nn.Sequential(nn.Linear(3, 4), nn.ELU())
        self.classes = nn.Linear(16 * 4 + 4, 5)
        self.box = nn.Linear(16 * 4 + 4, 4)

    def forward(self, picture: torch.Tensor, numbers: torch.Tensor) -> Seen:
        both = torch.cat([self.picture(picture), self.numbers(numbers)], 1)
        classes = self.classes(both)
        return Seen(classes, classes.argmax(1), self.box(both).exp())


class AsList(nn.Module):
    """Gives a list."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.LayerNorm(8), nn.Linear(8, 4))

    def forward(self, values: torch.Tensor) -> list[torch.Tensor]:
        logits = self.plain(values)
        return [logits, logits.softmax(1), logits.amax(1, keepdim=True)]


Inputs = tuple[Callable[[np.random.Generator], np.ndarray], ...]

NETS: dict[str, tuple[type[nn.Module], Inputs]] = {
    "residual": (Residual, (images(3, 8, 8),)),
    "mobile": (Mobile, (images(4, 6, 6),)),
    "decoder": (Decoder, (images(2, 8, 8),)),
    "wave": (Wave, (images(2, 16),)),
    "lstm": (Lstm, (images(3, 4),)),
    "last-states": (LastStates, (images(3, 4),)),
    "gru": (Gru, (images(3, 4), images(4, WIDTH))),
    "encoder": (Encoder, (tokens(np.int64), padding)),
    "attention": (Attention, (tokens(np.int32),)),
    "two-heads": (TwoHeads, (images(1, 6, 6), images(3))),
    "list": (AsList, (images(6),)),
}


def inputs_of(name: str) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    return tuple(make(random) for make in NETS[name][1])


def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name][0]().train()
    with torch.no_grad():  # statistics of batch norms that are not the identity
        net(*(torch.from_numpy(array) for array in inputs_of(name)))
    return net.eval()
