"""Two and four real gloo processes give the losses and gradients of one process with the whole batch."""

from pathlib import Path

import pytest
import torch

from tests.distributed.one_step import MODELS, every_step, one_step
from tests.distributed.ranks import run_as_ranks

ACCUMULATED = {"gradient_accumulation_steps": 2}
RUNS = {  # processes: settings by name
    2: {"plain": {}, "cached": {"gradient_cache_chunk_size": 3}},
    4: {"plain": {}, "cached_accumulated": {"gradient_cache_chunk_size": 1, **ACCUMULATED}},
}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Where the ranks of a launch left what they got; each launch is made once."""
    folders: dict[int, Path] = {}

    def folder_of(processes: int) -> Path:
        if processes not in folders:
            folders[processes] = tmp_path_factory.mktemp("ranks")
            run_as_ranks(processes, every_step, RUNS[processes], processes, folders[processes])
        return folders[processes]

    return folder_of


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process gets with the whole batch at once."""
    folder, made = tmp_path_factory.mktemp("one"), {}

    def result_of(kind: str, **settings) -> dict:
        key = (kind, *settings)
        if key not in made:
            one_step(kind, 1, folder, **settings)
            made[key] = torch.load(folder / f"{kind}.pt")
        return made[key]

    return result_of


@pytest.mark.parametrize(("processes", "run"), [(count, run) for count, runs in RUNS.items() for run in runs])
@pytest.mark.parametrize("kind", MODELS)
def test_processes_equal_one(kind, processes, run, launched, alone):
    one = alone(kind, **(ACCUMULATED if "accumulated" in run else {}))
    several = torch.load(launched(processes) / run / f"{kind}.pt")
    torch.testing.assert_close(several["losses"], one["losses"], rtol=1e-5, atol=0)
    assert one["losses"][0] != one["losses"][1]
    assert one["gradients"].keys() == several["gradients"].keys()
    largest = max(gradient.abs().max().item() for gradient in one["gradients"].values())
    for name, gradient in one["gradients"].items():
        assert gradient.abs().max() > 0, name
        # The bias of attention keys has a gradient of zero but for rounding.
        tolerance = max(1e-5 * gradient.abs().max().item(), 1e-8 * largest)
        torch.testing.assert_close(several["gradients"][name], gradient, rtol=1e-5, atol=tolerance)
