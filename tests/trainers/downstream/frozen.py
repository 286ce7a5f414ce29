"""What "frozen" promises, as an assertion that every trainer's test can use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainers.downstream.encoders import FrozenEncoder


@contextmanager
def assert_unchanged(encoder: FrozenEncoder) -> Iterator[None]:
    """Asserts that what runs inside leaves `encoder` as it was, and never trains it.

    Every weight and buffer, BatchNorm statistics and their counts included, is bit-equal afterwards; no weight asks
    for a gradient or has one; no module is in training mode, neither afterwards nor at any forward pass meanwhile, and
    no forward pass keeps a graph through the encoder.
    """
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    broken = []

    def watch(module, inputs, output):
        if module.training:
            broken.append(f"{type(module).__name__} ran in training mode")
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            broken.append(f"a weight of {type(module).__name__} asked for a gradient")
        if isinstance(output, torch.Tensor) and output.requires_grad:
            broken.append(f"the output of {type(module).__name__} kept a graph")

    hooks = [module.register_forward_hook(watch) for module in encoder.model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    assert not broken, broken[0]
    after = encoder.model.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name].cpu(), value.cpu()), f"{name} changed"
    for name, parameter in encoder.model.named_parameters():
        assert not parameter.requires_grad, f"{name} asks for a gradient"
        assert parameter.grad is None, f"{name} has a gradient"
    for name, module in encoder.model.named_modules():
        assert not module.training, f"{name or type(module).__name__} is in training mode"
