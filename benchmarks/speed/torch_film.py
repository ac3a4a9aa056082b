"""The FiLM U-Net in PyTorch, with the names of tensors that `dj.interop` reads; see models/film_unet.py."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FiLMBlock(nn.Module):
    """Convolution, norm, y (scale + 1) + shift from the time, SiLU; convolution, norm, SiLU; plus the input."""

    def __init__(self, before: int, after: int, embedding: int, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, after)
        self.conv2 = nn.Sequential(nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(groups, after), nn.SiLU())
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * after))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.time_emb(embedding)[:, :, None, None].chunk(2, dim=1)
        y = F.silu(self.norm1(self.conv1(x)) * (scale + 1) + shift)
        return self.conv2(y) + self.shortcut(x)


class Heads(nn.Module):
    """Multi-head attention over positions [B, N, C]."""

    def __init__(self, channels: int, heads: int, head_channels: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * heads * head_channels, bias=False)
        self.proj = nn.Linear(heads * head_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """x + heads(norm(x)), for images [B, C, H, W]."""

    def __init__(self, channels: int, heads: int, head_channels: int):
        super().__init__()
        self.fn = Heads(channels, heads, head_channels)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fn(self.norm(x).flatten(2).transpose(1, 2))
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Level(nn.Module):
    """A block, attention if the level has it, and the change of resolution after it."""

    def __init__(self, conv: nn.Module, attn: nn.Module | None, way: str, sample: nn.Module | None):
        super().__init__()
        self.conv = conv
        self.attn = nn.Identity() if attn is None else attn
        if sample is not None:
            setattr(self, way, sample)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attn(self.conv(x, embedding))


class Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, pre_conv: nn.Module, attn: nn.Module, post_conv: nn.Module):
        super().__init__()
        self.pre_conv, self.attn, self.post_conv = pre_conv, attn, post_conv

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.post_conv(self.attn(self.pre_conv(x, embedding)), embedding)


class Sinusoid(nn.Module):
    """Sines, then cosines, of k + offset at width/2 frequencies from 1 to 1e-4, in float32."""

    def __init__(self, width: int, offset: float):
        super().__init__()
        self.half, self.offset = width // 2, offset

    def forward(self, k: Tensor) -> Tensor:
        exponent = torch.arange(self.half, device=k.device, dtype=torch.float32) / (self.half - 1)
        angle = (k + self.offset)[:, None] * torch.exp(-math.log(1e4) * exponent)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class FiLMUNet(nn.Module):
    """The network; `attends` says for each level, the finest first, whether its blocks are followed by attention."""

    def __init__(
        self,
        width: int,
        multipliers: list[int],
        attends: list[bool],
        channels: int,
        groups: int,
        heads: int,
        head_channels: int,
        time_offset: float,
    ):
        super().__init__()
        embedding = 4 * width
        widths = [width, *(width * multiplier for multiplier in multipliers)]

        def block(before: int, after: int) -> FiLMBlock:
            return FiLMBlock(before, after, embedding, groups)

        def attention(level: int, after: int) -> Attention | None:
            return Attention(after, heads, head_channels) if attends[level] else None

        def down(level: int) -> Level:
            before, after = widths[level], widths[level + 1]
            is_last = level == len(multipliers) - 1
            sample = None if is_last else nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * after, after, 1))
            return Level(block(before, after), attention(level, after), "ds", sample)

        def up(level: int) -> Level:
            before, after = widths[level + 1], widths[level]
            larger = nn.Upsample(scale_factor=2), nn.Conv2d(after, after, 3, padding=1)
            sample = nn.Sequential(*larger) if level else None
            return Level(block(2 * before, after), attention(level, after), "us", sample)

        levels, middle = range(len(multipliers)), widths[-1]
        self.time_emb = nn.Sequential(
            Sinusoid(width, time_offset), nn.Linear(width, embedding), nn.GELU(), nn.Linear(embedding, embedding)
        )
        self.init_conv = nn.Conv2d(channels, width, 1)
        self.downs = nn.ModuleList(down(level) for level in levels)
        self.mid = Middle(block(middle, middle), Attention(middle, heads, head_channels), block(middle, middle))
        self.ups = nn.ModuleList(up(level) for level in reversed(levels))
        self.final_res = block(2 * width, width)
        self.final_conv = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, k: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.time_emb[1:](self.time_emb[0](k).to(self.init_conv.weight.dtype))
        x = self.init_conv(x)
        skips = [x]
        for level in self.downs:
            x = level(x, embedding)
            skips.append(x)
            x = level.ds(x) if hasattr(level, "ds") else x
        x = self.mid(x, embedding)
        for level in self.ups:
            x = level(torch.cat([x, skips.pop()], dim=1), embedding)
            x = level.us(x) if hasattr(level, "us") else x
        return self.final_conv(self.final_res(torch.cat([x, skips.pop()], dim=1), embedding))
