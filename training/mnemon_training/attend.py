"""Softmax attention in cache-sized pieces, with the logarithm of its normaliser.

PyTorch's CPU attention neither returns a differentiable normaliser, which joining two sets of keys in
one softmax needs, nor is it fast for windows of 128. This one recomputes the weights when it goes
back, as FlashAttention does (Dao et al. 2022, section 3.1), so nothing of size queries x keys is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


# PyTorch's exp is ten times slower on masked logits than on others; exp2 is fast on all.
LOG2_E = 1.4426950408889634


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, bias, pieces):
        out = torch.empty_like(query)
        normaliser = query.new_empty(query.shape[:-1], dtype=torch.float32)
        for b, heads, group in pieces:
            logits = logits_of(query[b, heads], key[b, group], bias, b, heads)
            highest = logits.amax(dim=-1, keepdim=True)
            weights = logits.sub_(highest).mul_(LOG2_E).exp2_()
            total = weights.sum(dim=-1, keepdim=True)
            out[b, heads] = (weights.to(value.dtype) @ value[b, group]) / total
            normaliser[b, heads] = (highest + total.log_()).squeeze(-1)
        ctx.save_for_backward(query, key, value, bias, out, normaliser)
        ctx.pieces = pieces
        return out, normaliser

    @staticmethod
    def backward(ctx, d_out, d_normaliser):
        query, key, value, bias, out, normaliser = ctx.saved_tensors
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        d_out = d_out.to(query.dtype)
        # d(logit) = weight * (d_out . value - d_out . out + d_normaliser)
        shift = (d_out.float() * out.float()).sum(dim=-1) - d_normaliser
        for b, heads, group in ctx.pieces:
            logits = logits_of(query[b, heads], key[b, group], bias, b, heads)
            weights = logits.sub_(normaliser[b, heads].unsqueeze(-1)).mul_(LOG2_E).exp2_()
            d_logits = (d_out[b, heads] @ value[b, group].transpose(-1, -2)).float()
            d_logits.sub_(shift[b, heads].unsqueeze(-1)).mul_(weights)
            weights, d_logits = weights.to(query.dtype), d_logits.to(query.dtype)
            d_value[b, group] += summed(weights.transpose(-1, -2) @ d_out[b, heads], heads)
            d_key[b, group] += summed(d_logits.transpose(-1, -2) @ query[b, heads], heads)
            d_query[b, heads] = d_logits @ key[b, group]
        return d_query, d_key, d_value, None, None


def logits_of(query: Tensor, key: Tensor, bias: Tensor | None, lane: int, heads: int | slice) -> Tensor:
    """Of one head or some heads of a lane, ``[(heads), ..., Q, K]``, in float32."""
    logits = (query @ key.transpose(-1, -2)).float()
    if bias is not None:
        logits += bias[lane if bias.shape[0] > 1 else 0, heads if bias.shape[1] > 1 else 0]
    return logits


def summed(of_heads: Tensor, heads: int | slice) -> Tensor:
    return of_heads if isinstance(heads, int) else of_heads.sum(0)


def pieces_of(query: Tensor, key: Tensor, whole_groups: bool) -> list[tuple[int, int | slice, int]]:
    """Lane, a query head or all that share a key head, and this key head."""
    lanes, groups = key.shape[:2]
    size = query.shape[1] // groups
    if whole_groups:
        return [(b, slice(g * size, (g + 1) * size), g) for b in range(lanes) for g in range(groups)]
    return [(b, h, h // size) for b in range(lanes) for h in range(query.shape[1])]


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None,
           whole_groups: bool | None = None) -> tuple[Tensor, Tensor]:
    """Attention of ``[B, H, ..., Q, D]`` queries to ``[B, G, ..., K, D]`` keys and values, logits unscaled.

    ``bias`` is ``[B or 1, H or 1, ..., Q, K]`` and receives no gradient. Returns the
    mixed values, like ``query``, and the logarithm of each query's sum of exponents, ``[B, H, ..., Q]``.
    """
    # A processor's cache holds one head; a GPU wants much to do at once, and has the memory for it.
    whole_groups = query.is_cuda if whole_groups is None else whole_groups
    return _Attend.apply(query, key, value, bias, pieces_of(query, key, whole_groups))
