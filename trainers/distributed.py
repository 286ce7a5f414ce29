"""Features of all processes with gradients, and gradient caching (Gao et al., arXiv 2101.06983)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils.checkpoint import get_device_states, set_device_states


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


class RandomStates:
    """The states of the CPU's and, where the tensors are elsewhere, their devices' generators as they are now.

    Args:
        inputs (`Mapping[str, torch.Tensor]`): Whose devices count.
    """

    def __init__(self, inputs: Mapping[str, Tensor]):
        self.type = next(iter(inputs.values())).device.type
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*inputs.values())

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draws as it was drawn from these states; the generators then stand where they stood before."""
        with torch.random.fork_rng(self.devices, device_type=self.type):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states, device_type=self.type)
            yield


class GradientCache:
    """Encodes a batch chunk by chunk without a graph, and once more with one when the loss's gradient is known.

    `features` are those of the batch of all processes, like [`~trainers.distributed.gather_features`] gives them. The
    backward pass of a loss of them ends there; `backward` then takes each chunk's part of it through the model, so
    that no more than one chunk's graph is ever held. A chunk draws the same dropout both times.

    Each chunk has to be encoded as it would be in the whole batch: not so by a BatchNorm in training.

    Args:
        model (`nn.Module`): As the accelerator prepared it.
        inputs (`Mapping[str, torch.Tensor]`): Tensors of shape `(batch, ...)`.
        chunk_size (`int`): How many items are encoded at once.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor], chunk_size: int):
        size = len(next(iter(inputs.values())))
        self.chunks = [
            {name: tensor[start : start + chunk_size] for name, tensor in inputs.items()}
            for start in range(0, size, chunk_size)
        ]
        self.states, encoded = [], []
        with torch.no_grad():
            for chunk in self.chunks:
                self.states.append(RandomStates(chunk))
                encoded.append(model(**chunk, features_only=True))
        self.cached = {
            name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in join_chunks(encoded).items()
        }
        self.features = gather_features(self.cached)

    def backward(self, model: nn.Module, accelerator: Accelerator) -> None:
        """Takes the gradient that a loss's backward pass left at the features on to the parameters.

        Gradients of several processes are averaged once, with those of the last chunk.
        """
        start = 0
        for number, (chunk, states) in enumerate(zip(self.chunks, self.states, strict=True), 1):
            last = number == len(self.chunks)
            with contextlib.nullcontext() if last else accelerator.no_sync(model):
                with states.again():
                    features = model(**chunk, features_only=True)
                features = {name: tensor for name, tensor in features.items() if tensor.requires_grad}
                gradients = [
                    self.cached[name].grad[start : start + len(tensor), : tensor.shape[1]]
                    for name, tensor in features.items()
                ]
                torch.autograd.backward(list(features.values()), gradients)
            start += len(chunk["pixel_values"])


def join_chunks(chunks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Features of `(chunk, ...)` as those of the batch, filled with zeros to the words of the longest chunk."""
    joined = {}
    for name in chunks[0]:
        tensors = [chunk[name] for chunk in chunks]
        length = max(tensor.shape[1] for tensor in tensors)
        joined[name] = torch.cat(
            [F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, length - tensor.shape[1])) for tensor in tensors]
        )
    return joined
