"""Two processes that share a model out among them (FSDP2) give the loss and gradients of one that has it whole."""

import pytest
import torch

from tests.distributed.ranks import run_as_ranks
from tests.distributed.sharded_step import MAKERS, model_of, sharded_steps
from tests.trainers.data.pairs_of_texts import tiny_pairs


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    run_as_ranks(2, sharded_steps, folder)
    return folder


@pytest.mark.parametrize("method", MAKERS)
def test_sharded_equals_whole(method, sharded):
    model = model_of(method)
    loss = sum(model.losses(model(**tiny_pairs(8), features_only=True)).values())
    loss.backward()
    largest = max(parameter.grad.abs().max().item() for parameter in model.parameters())
    for run in ("plain", "cached"):
        ranks = [torch.load(sharded / f"{method}-{run}-{rank}.pt") for rank in range(2)]
        for found in ranks:
            torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-5, atol=0)
        for name, parameter in model.named_parameters():
            # The bias of attention keys has a gradient of zero but for rounding.
            tolerance = max(1e-5 * parameter.grad.abs().max().item(), 1e-8 * largest)
            whole = torch.cat([found["gradients"][name] for found in ranks])  # shared out along the first dimension
            torch.testing.assert_close(whole, parameter.grad, rtol=1e-5, atol=tolerance, msg=name)
