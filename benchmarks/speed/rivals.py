"""The PyTorch side: the same training step and the same sampling loop, in the ways in which PyTorch can run them.

Nothing here imports JAX.
"""

import contextlib
import copy
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from typing import Any

from measuring import Contestant, Prepared
from torch_twins import MISSING, Twin, Unavailable, build, count_parameters, lucidrains_twin


@dataclasses.dataclass(frozen=True)
class Mode:
    """How PyTorch runs a network.

    Attributes:
      text: its row in the table.
      channels_last: NHWC in memory.
      compile: arguments of torch.compile; None for eager.
    """

    text: str
    channels_last: bool = False
    compile: dict[str, Any] | None = None


MODES = {
    "eager": Mode("eager"),
    "channels_last": Mode("eager, channels_last", True),
    "compile": Mode("torch.compile", False, {}),
    "compile_channels_last": Mode("torch.compile, channels_last", True, {}),
    "reduce_overhead": Mode("torch.compile(mode='reduce-overhead'), channels_last", True, {"mode": "reduce-overhead"}),
}
LUCIDRAINS = "lucidrains"
RIVALS = (*MODES, LUCIDRAINS)
DEFAULT = f"eager,channels_last,compile,{LUCIDRAINS}"
_OTHER = "another architecture, without classes; its own FLOP, counted by PyTorch"


def import_torch() -> Any:
    """PyTorch, set to be fast. Raises Unavailable if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise Unavailable(MISSING) from error
    # As XLA does on a GPU: TF32 products for float32, and algorithms chosen by timing them.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return torch


def find_device(torch: Any, platform: str) -> Any:
    """PyTorch's name of the device that JAX runs on. Raises Unavailable if PyTorch does not reach it."""
    if platform == "cpu":
        return torch.device("cpu")
    if platform != "gpu" or not torch.cuda.is_available():
        raise Unavailable(f"this PyTorch, {torch.__version__}, finds no device for {platform}")
    return torch.device("cuda")


def train_contestants(twin: Twin, batch: int, dtype: str, names: list[str], platform: str) -> list[Contestant]:
    """The training steps of `names`, some of `RIVALS`."""
    extra = "autocast to bfloat16" if dtype == "bfloat16" else ""
    return [_contestant(name, twin, extra, make_train(batch, dtype, platform)) for name in names]


def sampling_contestants(twin: Twin, batch: int, dtype: str, names: list[str], platform: str) -> list[Contestant]:
    """The sampling loops of `names`, some of `RIVALS`."""
    extra = "weights in bfloat16" if dtype == "bfloat16" else ""
    return [_contestant(name, twin, extra, make_sampling(batch, dtype, platform)) for name in names]


def _contestant(name: str, twin: Twin, extra: str, make: Callable[[Twin, Mode], Prepared]) -> Contestant:
    if name == LUCIDRAINS:
        other, mode = lucidrains_twin(twin), MODES["eager"]
        name = f"PyTorch, lucidrains' Unet, dim {other.settings['dim']}, eager"
        return Contestant(name, lambda: make(other, mode), note=_OTHER)
    mode = MODES[name]
    return Contestant(f"PyTorch, {mode.text}", lambda: make(twin, mode), note=extra)


def make_train(batch: int, dtype: str, platform: str) -> Callable[[Twin, Mode], Prepared]:
    """Returns the function that builds a training step: what `dj.make_train_step` computes, without its checks."""

    def prepare(twin: Twin, mode: Mode) -> Prepared:
        torch = import_torch()
        device = find_device(torch, platform)
        network = build(twin).to(device).train()
        images, labels = _draw_batch(torch, twin, batch, device)
        alpha, sigma = (torch.tensor(table, device=device)[:, None, None, None] for table in (twin.alpha, twin.sigma))
        network, call = _arrange(torch, network, mode)
        parameters = list(network.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=1e-4, fused=True)
        average = copy.deepcopy([parameter.detach() for parameter in parameters])
        update_average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9999)

        def gradient(precision: str) -> None:
            x0 = _layout(torch, images.float() / 127.5 - 1, mode)
            k = torch.randint(1, len(twin.alpha), (batch,), device=device)
            eps = torch.randn_like(x0)
            with autocast(torch, device, precision):
                output = call(alpha[k] * x0 + sigma[k] * eps, k, labels)
            torch.nn.functional.mse_loss(output.float(), eps).backward()

        def step() -> None:
            optimizer.zero_grad()
            gradient(dtype)
            optimizer.step()
            update_average(average, [parameter.detach() for parameter in parameters], None)

        flops = None if twin.parameters else _count_flops(lambda: gradient("float32"))
        return Prepared(_repeat(torch, device, step), count_parameters(network), flops)

    return prepare


def make_sampling(batch: int, dtype: str, platform: str) -> Callable[[Twin, Mode], Prepared]:
    """Returns the function that builds the loop of DDIM with clipped x0, a network call per step, under inference_mode.

    In bfloat16 the weights are bfloat16, which is faster than autocast; another architecture runs under autocast.
    """

    def prepare(twin: Twin, mode: Mode) -> Prepared:
        torch = import_torch()
        device = find_device(torch, platform)
        is_same = bool(twin.parameters)
        wide = torch.bfloat16 if dtype == "bfloat16" and is_same else torch.float32
        network = build(twin).to(device, wide).eval()
        _, labels = _draw_batch(torch, twin, batch, device)
        network, call = _arrange(torch, network, mode)
        times = torch.tensor(twin.grid, device=device)[:, None].expand(-1, batch).contiguous()

        @torch.inference_mode()
        def sample(precision: str) -> Any:
            x = _layout(torch, torch.randn(batch, *twin.image_shape, device=device), mode)
            for i, (k, next_k) in enumerate(zip(twin.grid, twin.grid[1:], strict=False)):
                with autocast(torch, device, precision):
                    eps = call(x.to(wide), times[i], labels).float()
                x0 = ((x - twin.sigma[k] * eps) / max(twin.alpha[k], 1e-6)).clamp(-1, 1)
                eps = (x - twin.alpha[k] * x0) / twin.sigma[k]
                x = twin.alpha[next_k] * x0 + twin.sigma[next_k] * eps
            return x

        flops = None if is_same else _count_flops(lambda: sample("float32"))
        call_once = functools.partial(sample, "float32" if is_same else dtype)
        return Prepared(_repeat(torch, device, call_once), count_parameters(network), flops)

    return prepare


def autocast(torch: Any, device: Any, dtype: str) -> contextlib.AbstractContextManager:
    """Computes in bfloat16 where PyTorch's rules say so; does nothing for float32."""
    enabled = dtype == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if enabled else contextlib.nullcontext()


def _draw_batch(torch: Any, twin: Twin, batch: int, device: Any) -> tuple[Any, Any]:
    """Random images, uint8 [B, C, H, W], and labels [B]."""
    images = torch.randint(0, 256, (batch, *twin.image_shape), dtype=torch.uint8, device=device)
    return images, torch.randint(0, max(1, twin.num_classes), (batch,), device=device)


def _arrange(torch: Any, network: Any, mode: Mode) -> tuple[Any, Callable[..., Any]]:
    """(the network in the memory layout of `mode`, the function that calls it)."""
    if mode.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if mode.compile is None:
        return network, network
    is_cpu = next(network.parameters()).device.type == "cpu"
    if is_cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise Unavailable("torch.compile needs a C++ compiler; install g++")
    return network, torch.compile(network, **mode.compile)


def _layout(torch: Any, x: Any, mode: Mode) -> Any:
    return x.contiguous(memory_format=torch.channels_last) if mode.channels_last else x


def _repeat(torch: Any, device: Any, call: Callable[[], Any]) -> Callable[[int], None]:
    def run(calls: int) -> None:
        for _ in range(calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _count_flops(call: Callable[[], Any]) -> float:
    """Floating-point operations of the products and convolutions of a call, as PyTorch counts them.

    Not under autocast: the counter takes layers apart, and the parts would get operands of two dtypes.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())
