"""The configurations of `accelerate launch`, read the way it reads them."""

from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

import trainers

CONFIGS = Path(trainers.__file__).parent / "configs"
PROCESSES = {"gpu_1": 1, "gpu_8": 8, "multi_node": 16, "cpu_2": 2, "fsdp": 8}


def test_every_config_is_known():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(PROCESSES)


@pytest.mark.parametrize("name", PROCESSES)
def test_accelerate_reads_them_as_they_are_meant(name):
    command = ["--config_file", str(CONFIGS / f"{name}.yaml"), "-m", "trainers.pretrain", "--output_dir", "out"]
    args, _, precision_given = _validate_launch_command(launch_command_parser().parse_args(command))
    assert args.num_processes == PROCESSES[name]
    assert args.mixed_precision == ("no" if name == "cpu_2" else "bf16")
    assert args.multi_gpu == (name in ("gpu_8", "multi_node", "cpu_2"))
    assert args.num_machines == (2 if name == "multi_node" else 1)
    assert args.use_fsdp == (name == "fsdp")
    if name == "fsdp":
        assert (int(args.fsdp_version), args.fsdp_auto_wrap_policy) == (2, "NO_WRAP")
        assert args.fsdp_state_dict_type == "FULL_STATE_DICT"  # so that model.safetensors is written
