"""Features of all processes, with gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F


class GatherBatch(torch.autograd.Function):
    """Concatenates every process's tensor along the batch.

    Each process then computes the same loss over the whole batch, so the gradient that reaches its own slice is the
    whole one. It is multiplied by the number of processes because distributed training averages gradients over them.
    """

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        world, ctx.size = dist.get_world_size(), len(tensor)
        tensor = tensor.contiguous()
        slices = [torch.empty_like(tensor) for _ in range(world)]
        dist.all_gather(slices, tensor)
        return torch.cat(slices)  # (world * batch, ...)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.size
        return gradient[start : start + ctx.size] * dist.get_world_size()  # (batch, ...)


def gather_features(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features of the global batch on every process; on a single process the features themselves.

    Words are as many as the longest text of each process has: tensors are filled with zeros up to the longest of all.

    Args:
        features (`Mapping[str, torch.Tensor]`):
            Tensors of shape `(batch, ...)`, of the same shape on every process but for the second dimension.

    Returns:
        `dict[str, torch.Tensor]`: Tensors of shape `(processes * batch, ...)`, ordered by process.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return dict(features)
    features = pad_to_common_length(features)
    return {name: GatherBatch.apply(tensor) for name, tensor in features.items()}


def pad_to_common_length(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fills the second dimension of each tensor with zeros up to the largest on any process."""
    device = next(iter(features.values())).device
    lengths = torch.tensor([tensor.shape[1] for tensor in features.values()], device=device)
    dist.all_reduce(lengths, op=dist.ReduceOp.MAX)
    return {
        name: F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, length - tensor.shape[1]))
        for (name, tensor), length in zip(features.items(), lengths.tolist(), strict=True)
    }
