"""The options of `medsyn build` that choose an image generator, and the generator they choose."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dataset_builder.generators.diffusion import DTYPES, PRESETS, DiffusionGenerator
from medsyn.errors import UserError

if TYPE_CHECKING:
    from dataset_builder.generators.radiograph import ImageGenerator

PHANTOM_SIZE, DIFFUSION_SIZE = 256, 512
# Option -> argument of DiffusionGenerator. No option has a default of its own, so that given options are known.
DIFFUSION = {
    "config_name": "name",
    "revision": "revision",
    "lora": "lora",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "negative_prompt": "negative_prompt",
    "scheduler": "scheduler",
    "torch_dtype": "torch_dtype",
    "batch_size": "batch_size",
    "device": "device",
    "attention_slicing": "enable_attention_slicing",
    "compile": "compile",
    "channels_last": "channels_last",
    "safety_checker": "safety_checker",
}


def add_generator_options(images: argparse._ArgumentGroup, diffusion: argparse._ArgumentGroup) -> None:
    """Adds `--generator` and `--image-size` to one group and what only diffusion pipelines take to another."""
    images.add_argument(
        "--generator",
        default="phantom",
        metavar="NAME",
        help="image generator: phantom (default), or a diffusers text-to-image pipeline by folder, Hub id, or sd "
        f"for {PRESETS['sd']}",
    )
    images.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help=f"image height and width (default: {PHANTOM_SIZE} for the phantom, {DIFFUSION_SIZE} otherwise)",
    )
    number = {"type": int, "metavar": "N"}
    diffusion.add_argument("--config-name", metavar="NAME", help="the dataset's config (default: after the pipeline)")
    diffusion.add_argument("--revision", metavar="REV", help="branch, tag or commit of a pipeline on the Hub")
    diffusion.add_argument("--lora", metavar="PATH", help="LoRA weights: a file, a folder, or an id on the Hub")
    diffusion.add_argument("--num-inference-steps", **number, help="denoising steps (default: 50)")
    diffusion.add_argument("--guidance-scale", type=float, metavar="X", help="weight of the prompt (default: 7.5)")
    diffusion.add_argument("--negative-prompt", metavar="TEXT", help="negative prompt")
    diffusion.add_argument("--scheduler", metavar="CLASS", help="a diffusers scheduler (default: the pipeline's own)")
    diffusion.add_argument("--torch-dtype", choices=DTYPES, help="precision of the weights (default: float32)")
    diffusion.add_argument("--batch-size", **number, help="images per denoising batch (default: 8)")
    diffusion.add_argument("--device", help="torch device (default: this rank's GPU, else the CPU)")
    switch = {"action": "store_const", "const": True}
    diffusion.add_argument("--attention-slicing", **switch, help="attention in slices: less memory, slower")
    diffusion.add_argument("--compile", **switch, help="torch.compile the denoiser")
    diffusion.add_argument("--channels-last", **switch, help="channels-last memory layout, faster on some GPUs")
    diffusion.add_argument(
        "--no-safety-checker",
        dest="safety_checker",
        action="store_const",
        const=False,
        help="leave out the pipeline's filter of unsafe photographs, if it has one",
    )


def unused_option(args: argparse.Namespace) -> str | None:
    """Returns the first given option that the phantom does not take, or None."""
    if args.generator != "phantom":
        return None
    given = [name for name in DIFFUSION if getattr(args, name) is not None]
    if not given:
        return None
    return "--no-safety-checker" if given[0] == "safety_checker" else f"--{given[0].replace('_', '-')}"


def make_generator(args: argparse.Namespace) -> ImageGenerator:
    """
    Makes the generator that the options name.

    Raises:
        UserError: If an option is out of range, or a package is missing.
    """
    if args.generator == "phantom":
        from dataset_builder.generators.phantom import PhantomGenerator

        return PhantomGenerator(image_size=PHANTOM_SIZE if args.image_size is None else args.image_size)
    if find_spec("diffusers") is None or find_spec("peft") is None:
        raise UserError(
            f"--generator {args.generator} needs the packages diffusers and peft: pip install 'hub-medsyn[generate]'"
        )
    given = {argument: getattr(args, name) for name, argument in DIFFUSION.items() if getattr(args, name) is not None}
    size = DIFFUSION_SIZE if args.image_size is None else args.image_size
    return DiffusionGenerator(args.generator, height=size, width=size, **given)
