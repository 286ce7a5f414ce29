"""One step of a model that accelerate has sharded (FSDP2), on the CPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_mgca
from tests.trainers.data.pairs_of_texts import tiny_pairs
from trainers.distributed import GradientCache, gather_features

MAKERS = {"convirt": tiny_convirt, "gloria": tiny_gloria, "mgca": tiny_mgca}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def model_of(method: str):
    return MAKERS[method]("vit", text_changes=STILL, freeze_batch_norm=True).train()


def sharded_steps(out: Path) -> None:
    """Writes each rank's loss and share of the gradients as `<method>-<run>-<rank>.pt`; a run is plain or cached.

    Accelerate shards on GPUs alone: its own preparation is called with what it reads of an `Accelerator`.
    """
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    assert processes == 2
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="NO_WRAP", state_dict_type="FULL_STATE_DICT"
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=init_device_mesh("cpu", (processes,), mesh_dim_names=("dp_shard",)),
        parallelism_config=SimpleNamespace(fsdp_dim_names=["dp_shard"]),
        mixed_precision="no",
        is_main_process=rank == 0,
        is_fsdp2=True,
        device=torch.device("cpu"),
    )
    accelerator.no_sync = lambda model: Accelerator.no_sync(accelerator, model)
    for method in MAKERS:
        model = fsdp2_prepare_model(accelerator, model_of(method))
        share = {name: tensor.chunk(processes)[rank] for name, tensor in tiny_pairs(8).items()}
        for run in ("plain", "cached"):
            model.zero_grad()
            cache = GradientCache(model, share, 3) if run == "cached" else None
            features = cache.features if cache else gather_features(model(**share, features_only=True))
            loss = sum(model.losses(features).values())
            loss.backward()
            if cache:
                cache.backward(model, accelerator)
            shares = {name: value.grad.to_local() for name, value in model.named_parameters()}
            torch.save({"loss": loss.detach(), "gradients": shares}, out / f"{method}-{run}-{rank}.pt")
