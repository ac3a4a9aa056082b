"""The ConvNeXt U-Net in PyTorch, with the names of tensors that `dj.interop` reads; see models/convnext_unet.py."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, plus time and class; norm, convolution, GELU, norm, convolution; plus the input."""

    def __init__(self, before: int, after: int, embedding: int, expansion: int):
        super().__init__()
        wide = expansion * after
        self.t_fc = nn.Linear(embedding, before)
        self.c_fc = nn.Linear(embedding, before)
        self.ds_conv = nn.Conv2d(before, before, 7, padding=3, groups=before)
        self.sequential = nn.Sequential(
            nn.GroupNorm(1, before),
            nn.Conv2d(before, wide, 3, padding=1),
            nn.GELU(),
            nn.GroupNorm(1, wide),
            nn.Conv2d(wide, after, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        bias = self.t_fc(F.silu(time)) + self.c_fc(F.silu(label))
        return self.sequential(self.ds_conv(x) + bias[:, :, None, None]) + self.shortcut(x)


class Attention(nn.Module):
    """x + attention with one head, as wide as x, over all positions of norm(x)."""

    def __init__(self, channels: int):
        super().__init__()
        self.wx = nn.Linear(channels, 3 * channels)
        self.wo = nn.Linear(channels, channels)
        self.gn = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.wx(self.gn(x).flatten(2).transpose(1, 2))[:, None].chunk(3, dim=-1)
        y = self.wo(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Level(nn.ModuleList):
    """A block, and attention if the level has it."""

    def forward(self, x: Tensor, *embeddings: Tensor) -> Tensor:
        x = self[0](x, *embeddings)
        return self[1](x) if len(self) > 1 else x


def sine_table(steps: int, width: int) -> Tensor:
    """sin(p w_k), cos(p w_k) in turn, for p = 1 .. steps + 1 and w_k = 1e-4^(2k/width), k = 1 .. width/2."""
    position = torch.arange(1, steps + 2, dtype=torch.float64)
    frequency = 1e-4 ** (2 * torch.arange(1, width // 2 + 1, dtype=torch.float64) / width)
    angle = position[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


class ConvNeXtUNet(nn.Module):
    """The network; `sides` and `attends` are of each level, the finest first."""

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        sides: list[int],
        attends: list[bool],
        last_width: int,
        expansion: int,
        embedding: int,
        num_classes: int,
        in_channels: int,
        steps: int,
        stem: bool,
    ):
        super().__init__()

        def block(before: int, after: int) -> ConvNeXtBlock:
            return ConvNeXtBlock(before, after, embedding, expansion)

        def level_of(before: int, after: int, level: int) -> Level:
            return Level([block(before, after), *([Attention(after)] if attends[level] else [])])

        def upscale(level: int) -> nn.ConvTranspose2d:
            stride = strides[level]
            extra = sides[level] - 1 - (sides[level + 1] - 1) * stride  # padding at the end, to come back to the side
            coarse, fine = channels[level + 1], channels[level]
            return nn.ConvTranspose2d(coarse, fine, 3, stride, padding=1, output_padding=extra)

        below = range(len(strides))
        self.register_buffer("t_emb", sine_table(steps, embedding))
        self.class_emb = nn.Embedding(num_classes, embedding)
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1) if stem else nn.Identity()
        pairs = zip(strides, itertools.pairwise(channels), strict=True)
        self.downscales = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride, 1) for stride, (fine, coarse) in pairs)
        self.upscales = nn.ModuleList(upscale(level) for level in reversed(below))
        before = [channels[0] if stem else in_channels, *channels[1:]]
        self.downblocks = nn.ModuleList(map(level_of, before, channels, range(len(channels))))
        after = [last_width, *channels[1:]]
        self.upblocks = nn.ModuleList(level_of(2 * channels[level], after[level], level) for level in reversed(below))
        self.final_conv = block(last_width, in_channels)

    def forward(self, x: Tensor, k: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.t_emb[k], self.class_emb(labels)
        x, skips = self.stem(x), []
        for block, downscale in zip(self.downblocks, self.downscales, strict=False):  # the last block is the middle
            x = block(x, *embeddings)
            skips.append(x)
            x = downscale(x)
        x = self.downblocks[-1](x, *embeddings)
        for upscale, block in zip(self.upscales, self.upblocks, strict=True):
            x = block(torch.cat([upscale(x), skips.pop()], dim=1), *embeddings)
        return self.final_conv(x, *embeddings)
