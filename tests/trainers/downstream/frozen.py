"""Assertion that an encoder stays frozen, for the tests of every trained head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainers.downstream.encoders import FrozenEncoder


@contextmanager
def assert_unchanged(encoder: FrozenEncoder) -> Iterator[None]:
    """Asserts that the code run inside does not change or train `encoder`.

    Every weight and buffer, BatchNorm statistics and counts included, is bit-identical afterwards; no weight requires
    or has a gradient; no module is in training mode, afterwards or during any forward pass; and no forward pass keeps
    an autograd graph through the encoder.
    """
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    broken = []

    def watch(module, inputs, output):
        if module.training:
            broken.append(f"{type(module).__name__} ran in training mode")
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            broken.append(f"a weight of {type(module).__name__} requires a gradient")
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
        assert not parameter.requires_grad, f"{name} requires a gradient"
        assert parameter.grad is None, f"{name} has a gradient"
    for name, module in encoder.model.named_modules():
        assert not module.training, f"{name or type(module).__name__} is in training mode"
