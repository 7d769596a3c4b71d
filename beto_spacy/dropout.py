"""Dropout that costs a CPU a third of torch's own: 16 random bits decide on a number, instead of a draw of its own.

Of layers, by `quicken_dropout`, and of attention's probabilities, by `QuickAttention`.
"""

import math
from typing import Any, Dict, Optional, Tuple

import torch
from torch.overrides import TorchFunctionMode

_LEVELS = 2**16


def _threshold(p: float) -> int:
    """How many of the levels are dropped."""
    return round(p * _LEVELS)


def _draw(shape: torch.Size, threshold: int) -> Tuple[torch.Tensor, float]:
    """Which of some numbers are kept, and what they are multiplied by."""
    count = math.prod(shape)
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = (draws.view(torch.int16)[:count] >= threshold - _LEVELS // 2).view(shape)
    return kept, _LEVELS / (_LEVELS - threshold)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, threshold: int) -> torch.Tensor:
        kept, ctx.scale = _draw(values.shape, threshold)
        ctx.save_for_backward(kept)
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
        threshold = _threshold(self.p)
        if not self.training or values.device.type != "cpu" or not 0 < threshold < _LEVELS:
            return super().forward(values)
        return _Dropped.apply(values, threshold)


def quicken_dropout(model: torch.nn.Module) -> None:
    """Put `CpuDropout` in the place of each `torch.nn.Dropout` of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, CpuDropout(child.p, child.inplace).train(child.training))


class _Attention(torch.autograd.Function):
    """Scaled dot-product attention with dropout, by the usual formulas.

    query, key, value: *Shape:* (..., length, width)
    mask: What is added to the scores, or where there may be attention; broadcast to (..., length, length).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Optional[torch.Tensor],
        threshold: int,
        scale: float,
    ) -> torch.Tensor:
        scores = torch.matmul(query, key.transpose(-1, -2)).mul_(scale)
        if mask is not None:
            if mask.stride(-2) == 0:
                mask = mask[..., :1, :]  # the same for all queries
            if mask.dtype == torch.bool:
                scores.masked_fill_(mask.logical_not(), -math.inf)
            else:
                scores.add_(mask)
        probabilities = torch.softmax(scores, dim=-1).to(value.dtype)
        kept, ctx.dropped_scale = _draw(probabilities.shape, threshold)
        ctx.save_for_backward(query, key, value, probabilities, kept)
        ctx.scale = scale
        return torch.matmul(probabilities * kept, value).mul_(ctx.dropped_scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Tuple[Optional[torch.Tensor], ...]:
        query, key, value, probabilities, kept = ctx.saved_tensors
        gradient = gradients[0] * ctx.dropped_scale
        d_value = torch.matmul((probabilities * kept).transpose(-1, -2), gradient)
        d_scores = torch.matmul(gradient, value.transpose(-1, -2)).mul_(kept)
        d_scores = torch._softmax_backward_data(d_scores, probabilities, -1, probabilities.dtype)
        d_query = torch.matmul(d_scores, key).mul_(ctx.scale)
        d_key = torch.matmul(d_scores.transpose(-1, -2), query).mul_(ctx.scale)
        return d_query, d_key, d_value, None, None, None


class QuickAttention(TorchFunctionMode):
    """As long as this context lasts, attention with dropout is quicker on a CPU and keeps 5 bytes a pair of wordpieces.

    torch keeps 12: over a window of 512 wordpieces as much as all the rest of a layer does. Attention that isn't
    `torch.nn.functional.scaled_dot_product_attention`, or is without dropout, stays as it is. Layers that are computed
    again for their gradients must be so in this context too.
    """

    def __torch_function__(self, func: Any, types: Any, args: Tuple = (), kwargs: Optional[Dict] = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            found = _quick(*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


def _quick(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
) -> Optional[torch.Tensor]:
    """The attention if it's of the kind that is known here."""
    threshold = _threshold(dropout_p)
    if query.device.type != "cpu" or is_causal or enable_gqa or not 0 < threshold < _LEVELS:
        return None
    if attn_mask is not None and attn_mask.requires_grad:
        return None
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return _Attention.apply(query, key, value, attn_mask, threshold, scale)
