"""What makes training quicker on a CPU: dropout, attention with it, and products of matrices in bf16.

Dropout costs a third of torch's own: 16 random bits decide on a number, instead of a draw of its own. That of layers is
put in by `quicken_dropout`; the rest is there as long as `QuickLayers` lasts.
"""

import math
from typing import Any, Dict, Optional, Tuple

import torch
from torch.overrides import TorchFunctionMode

_LEVELS = 2**16
#: In bf16, what the number of rows of a linear layer is filled up to a multiple of; and that of attention's windows,
#: of those that are no shorter than what fp32 is as quick for.
_ROWS, _LENGTHS, _SHORT = 64, 32, 128


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


class QuickLayers(TorchFunctionMode):
    """As long as this context lasts, attention with dropout and products of matrices in bf16 are quicker on a CPU.

    Attention keeps 5 bytes a pair of wordpieces. torch keeps 12: over a window of 512 wordpieces as much as all the
    rest of a layer does. Attention that isn't `torch.nn.functional.scaled_dot_product_attention`, or is without
    dropout, stays as it is.

    In bf16 (torch's autocast) oneDNN prepares itself for each new shape, and never forgets a part of that: a quarter of
    a megabyte of each, and of texts each batch has another. So there are few shapes: the rows of linear layers and long
    windows are filled up, and attention over short ones is in fp32, for which nothing is prepared.

    Layers that are computed again for their gradients must be so in this context too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._filled: Optional[Tuple[torch.Tensor, int, torch.Tensor]] = None

    def __exit__(self, *problem: Any) -> None:
        self._filled = None  # a layer that may be computed again keeps its context
        super().__exit__(*problem)

    def __torch_function__(self, func: Any, types: Any, args: Tuple = (), kwargs: Optional[Dict] = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            found = _quick(*args, **kwargs)
            if found is not None:
                return found
        elif func is torch.nn.functional.linear and args and _becomes_bf16(args[0]):
            return self._linear(*args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, values: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        before = self._filled  # several layers may read the same
        if before is None or before[0] is not values or before[1] != values._version:
            rows = values.reshape(-1, values.shape[-1]).to(torch.bfloat16)
            before = self._filled = (values, values._version, _fill(rows, _ROWS))
        found = torch.nn.functional.linear(before[2], weight, bias)
        shape = values.shape[:-1]
        return found[: shape.numel()].view(*shape, found.shape[-1])


def _becomes_bf16(values: torch.Tensor) -> bool:
    """Whether autocast computes with these in bf16 on a CPU."""
    return (
        values.device.type == "cpu"
        and values.dtype in (torch.float32, torch.bfloat16)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _fill(rows: torch.Tensor, multiple: int, value: float = 0.0) -> torch.Tensor:
    """Append rows, so that their number is a multiple. *Shape:* (..., n_rows, width)"""
    n_more = -rows.shape[-2] % multiple
    return torch.nn.functional.pad(rows, (0, 0, 0, n_more), value=value) if n_more else rows


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
    length = query.shape[-2]
    if not _becomes_bf16(query) or key.shape[-2] != length:
        return _Attention.apply(query, key, value, attn_mask, threshold, scale)
    if length <= _SHORT:
        with torch.autocast("cpu", enabled=False):
            return _Attention.apply(query.float(), key.float(), value.float(), attn_mask, threshold, scale)
    query, key, value = (_fill(rows, _LENGTHS) for rows in (query, key, value))
    mask = _mask_beyond(attn_mask, length, query)
    return _Attention.apply(query, key, value, mask, threshold, scale)[..., :length, :]


def _mask_beyond(mask: Optional[torch.Tensor], length: int, query: torch.Tensor) -> Optional[torch.Tensor]:
    """A mask that also leaves out what was appended to keys. *Shape:* (..., 1 or n_queries, n_keys)

    mask: Of the keys as they were, see `_Attention`.
    length: How many they were.
    query: The queries that have the length of the keys now.
    """
    n_more = query.shape[-2] - length
    if not n_more:
        return mask
    if mask is None:
        mask = query.new_zeros((1, length))
    is_bool = mask.dtype == torch.bool
    if mask.shape[-2] == 1 or mask.stride(-2) == 0:
        mask = mask[..., :1, :]
    else:
        mask = _fill(mask, _LENGTHS, float(is_bool))  # a query without any key has no probabilities
    return torch.nn.functional.pad(mask, (0, n_more), value=0.0 if is_bool else -math.inf)
