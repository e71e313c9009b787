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
    def forward(ctx, query, key, value, bias):
        out = torch.empty_like(query)
        normaliser = query.new_empty(query.shape[:-1], dtype=torch.float32)
        heads = query.shape[1]
        for b in range(query.shape[0]):
            for h in range(heads):
                g = h * key.shape[1] // heads
                logits = (query[b, h] @ key[b, g].transpose(-1, -2)).float()
                if bias is not None:
                    logits += bias[b if bias.shape[0] > 1 else 0, h if bias.shape[1] > 1 else 0]
                highest = logits.amax(dim=-1, keepdim=True)
                weights = logits.sub_(highest).mul_(LOG2_E).exp2_()
                total = weights.sum(dim=-1, keepdim=True)
                out[b, h] = (weights.to(value.dtype) @ value[b, g]) / total
                normaliser[b, h] = (highest + total.log_()).squeeze(-1)
        ctx.save_for_backward(query, key, value, bias, out, normaliser)
        return out, normaliser

    @staticmethod
    def backward(ctx, d_out, d_normaliser):
        query, key, value, bias, out, normaliser = ctx.saved_tensors
        heads = query.shape[1]
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        d_out = d_out.to(query.dtype)
        # d(logit) = weight * (d_out . value - d_out . out + d_normaliser)
        shift = (d_out.float() * out.float()).sum(dim=-1) - d_normaliser
        for b in range(query.shape[0]):
            for h in range(heads):
                g = h * key.shape[1] // heads
                logits = (query[b, h] @ key[b, g].transpose(-1, -2)).float()
                if bias is not None:
                    logits += bias[b if bias.shape[0] > 1 else 0, h if bias.shape[1] > 1 else 0]
                weights = logits.sub_(normaliser[b, h].unsqueeze(-1)).mul_(LOG2_E).exp2_()
                d_logits = (d_out[b, h] @ value[b, g].transpose(-1, -2)).float()
                d_logits.sub_(shift[b, h].unsqueeze(-1)).mul_(weights)
                weights, d_logits = weights.to(query.dtype), d_logits.to(query.dtype)
                d_value[b, g] += weights.transpose(-1, -2) @ d_out[b, h]
                d_key[b, g] += d_logits.transpose(-1, -2) @ query[b, h]
                d_query[b, h] = d_logits @ key[b, g]
        return d_query, d_key, d_value, None


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention of ``[B, H, ..., Q, D]`` queries to ``[B, G, ..., K, D]`` keys and values, logits unscaled.

    ``bias`` is ``[B or 1, H or 1, ..., Q, K]`` and receives no gradient. Returns the
    mixed values, like ``query``, and the logarithm of each query's sum of exponents, ``[B, H, ..., Q]``.
    """
    return _Attend.apply(query, key, value, bias)
