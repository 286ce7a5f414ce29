"""Makes what the Space starts with: two small encoders and about a hundred phantoms, all from nothing.

```bash
python -m scripts.bundle --seed 0             # about an hour on two cores; resumes where it was stopped
python -m scripts.bundle --seed 0 --measure   # measures what is there and writes the numbers into the cards
```

Nothing of it was ever a patient's: the reports are written by a grammar, the images are rendered, and all weights
start at random. The encoders learn from reports and images of the seed after `--seed`; the images of the bundle are of
`--seed` itself and take no part in training or in any choice.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medsyn.errors import add_debug_option, command
from spaces_app.bundled import BUNDLE

if TYPE_CHECKING:
    from dataset_builder.reports.record import ReportRecord

DATASET = "medsyn-cxr"
IMAGES = 112
IMAGE_SIZE = 256  # pixels
TEXT_WIDTH = 128  # of the BERT
TRAINING_IMAGES = 2400
NORMAL_SHARE = 0.25  # of the bundle's images; nearly half of the grammar's are


@dataclass(frozen=True)
class Small:
    """A method with an image encoder that is a ResNet-18 of fewer channels, and a BERT of two layers.

    Args:
        method (`str`): Of `medsyn pretrain`.
        epochs (`int`): Of training.
        channels (`tuple[int, ...]`): Of the four stages.
        layers (`tuple[int, ...]`): Blocks in them. With two in each, a region of the third sees 211 pixels and so the
            whole image, and a corner could stand for all of it; with one, it sees 99.
        image_size (`int`): Side of the images in pixels.
        switches (`dict`): Of the method's configuration.
    """

    method: str
    epochs: int
    channels: tuple[int, ...]
    layers: tuple[int, ...] = (2, 2, 2, 2)
    image_size: int = 128
    switches: dict = field(default_factory=dict)


# Chosen by the loss on the validation phantoms in the first epochs: whole impressions rather than both sections or
# single sentences, and batches of 16 rather than 32.
OPTIONS = (
    *("--preset", "fixed", "--image_encoder", "random:resnet18", "--text_encoder", "scratch"),
    *("--num_channels", 1, "--text_columns", "impression", "--text_sampling", "full"),
    *("--per_device_train_batch_size", 16, "--per_device_eval_batch_size", 32, "--learning_rate", 1e-3),
    *("--warmup_steps", 0.1, "--weight_decay", 0.01, "--max_grad_norm", 1.0, "--logging_steps", 50),
    *("--load_best_model_at_end", True, "--metric_for_best_model", "eval_loss", "--report_to", "none"),
)
MODELS = {
    "gloria-small": Small("gloria", 16, (32, 64, 128, 128), layers=(1, 1, 1, 1), image_size=160),
    "convirt-small": Small("convirt", 40, (24, 48, 96, 128), switches={"projection_dim": 128}),
}


def small_model(small: Small, model_class, model_arguments, data_arguments, rows):
    """The untrained model and its processor, as `trainers.pretrain.run` asks for them."""
    from transformers import BertConfig, TimmWrapperConfig, VisionTextDualEncoderProcessor

    from hub_medsyn import MedSynImageProcessor
    from trainers.scratch_text import MAX_TOKENS, train_tokenizer

    tokenizer = train_tokenizer(text for column in ("findings", "impression") for text in rows[column] if text)
    arguments = {"layers": list(small.layers), "channels": list(small.channels), "in_chans": 1}
    arguments["stem_width"] = small.channels[0]
    text = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * TEXT_WIDTH,
        max_position_embeddings=MAX_TOKENS,
    )
    config = model_class.config_class(
        vision_config=TimmWrapperConfig(architecture="resnet18", model_args=arguments),
        text_config=text,
        preset=model_arguments.preset,
        image_size=model_arguments.image_size,
        freeze_batch_norm=False,  # a random start has no statistics to run on
        frozen_text_layers=0,
        freeze_text_embeddings=False,
        **small.switches,
    )
    model = model_class(config)
    model.set_vocabulary(tokenizer)
    images = MedSynImageProcessor(
        size=model_arguments.image_size, image_mean=0.5, image_std=0.5, num_channels=model_arguments.num_channels
    )
    return model, VisionTextDualEncoderProcessor(images, tokenizer)


def varied_reports(number: int, seed: int, training_seed: int) -> list[ReportRecord]:
    """Reports of the grammar with every kind of finding about as often, and fewer normal ones than it writes.

    Args:
        number (`int`): How many.
        seed (`int`): Of the grammar.
        training_seed (`int`): Of the reports to learn from; none of them is among those chosen.

    Returns:
        `list[ReportRecord]`: Under ids of their own, since the grammar gives the same ids for every seed.
    """
    from dataset_builder.findings import KINDS, PRESENT
    from dataset_builder.reports.grammar import write_reports

    def text(record: ReportRecord) -> str:
        return f"{record.findings}\n{record.impression}"

    learnt = {text(record) for record in write_reports(TRAINING_IMAGES, training_seed)}
    waiting: dict[str, deque[int]] = {kind: deque() for kind in KINDS}
    candidates = [record for record in write_reports(10 * number, seed) if text(record) not in learnt]
    normal = []
    for place, record in enumerate(candidates):
        kinds = {finding.kind for finding in record.scene if finding.certainty == PRESENT}
        for kind in kinds:
            waiting[kind].append(place)
        if not kinds:
            normal.append(place)
    chosen = set(normal[: int(number * NORMAL_SHARE)])
    while len(chosen) < number:
        for places in waiting.values():
            while places and places[0] in chosen:
                places.popleft()
            if places and len(chosen) < number:
                chosen.add(places.popleft())
    return [
        replace(candidates[place], study_id=f"b{place + 1:05d}", subject_id=f"bp{candidates[place].subject_id[2:]}")
        for place in sorted(chosen)
    ]


def make_images(out: Path, seed: int, num_proc: int) -> None:
    """Renders the images of the bundle, or resumes that."""
    from dataset_builder.build import build
    from dataset_builder.generators.phantom import PhantomGenerator

    build(
        varied_reports(IMAGES, seed, seed + 1),
        PhantomGenerator(IMAGE_SIZE),
        out,
        seed=seed,
        num_proc=num_proc,
        image_format="jpeg",
        splits=(0.0, 0.0, 1.0),
        source={"grammar_reports": 10 * IMAGES, "chosen": IMAGES},
    )


def train(name: str, dataset: Path, folder: Path, seed: int) -> None:
    """Pre-trains one of [`MODELS`] as `medsyn pretrain` does, or resumes its last checkpoint.

    Args:
        name (`str`): Which.
        dataset (`Path`): The training phantoms.
        folder (`Path`): Receives checkpoints and, at the end, the model that was best on the validation phantoms.
        seed (`int`): Of weights, batches and image changes.
    """
    from trainers.pretrain import parse, run

    small = MODELS[name]
    options = [*OPTIONS, "--model", small.method, "--num_train_epochs", small.epochs, "--seed", seed]
    options += ["--image_size", small.image_size]
    options += ["--dataset", dataset, "--output_dir", folder]
    if any(folder.glob("checkpoint-*/batches.json")):
        options += ["--resume_from_checkpoint", "last"]
    run(*parse([str(option) for option in options]), make_model=functools.partial(small_model, small))


def store(trained: Path, folder: Path) -> None:
    """Writes a trained model in half precision; `AutoModel` reads it in single precision, as `config.json` says."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel, AutoProcessor

    import hub_medsyn  # noqa: F401  registers the models

    folder.mkdir(parents=True, exist_ok=True)
    AutoModel.from_pretrained(trained, dtype=torch.float32).config.save_pretrained(folder)
    AutoProcessor.from_pretrained(trained).save_pretrained(folder)
    weights = load_file(trained / "model.safetensors")
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("README.md", "training_curve.png"):
        shutil.copy(trained / name, folder)


def measure_all(bundle: Path, work: Path, real: Path | None, seed: int) -> None:
    """Measures every model of the bundle and writes the numbers into their cards."""
    import datasets
    from transformers import AutoModel, AutoProcessor

    import hub_medsyn  # noqa: F401  registers the models
    from dataset_builder.reports.grammar import write_reports
    from scripts.bundle_scores import measure, measure_real, write_section

    rows = datasets.load_dataset(str(bundle / DATASET), split="test")
    learnt = {record.impression for record in write_reports(TRAINING_IMAGES, seed + 1)}
    shared = sum(text in learnt for text in rows["impression"])
    for folder in sorted((bundle / "models").iterdir()):
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        scores = measure(model, processor, rows, seed)
        on_patients = measure_real(model, processor, real, seed) if real else None
        trained, before = work / folder.name, None
        if (trained / "README.md").is_file():
            before = measure(AutoModel.from_pretrained(trained), processor, rows, seed).zero_shot
        write_section(folder / "README.md", scores, on_patients, before, shared)
        print((folder / "README.md").read_text(encoding="utf-8").partition("## Measured")[2])


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m scripts.bundle",
        description="Makes what the Space starts with, from nothing: phantoms to learn from, small encoders that "
        "learn from them, and a few phantoms to show. Goes on where it was stopped.",
    )
    add = arguments.add_argument
    add("--seed", type=int, default=0, help="of the images to show; those to learn from are of the seed after it "
        "(default: %(default)s)")  # fmt: skip
    add("--out", type=Path, default=BUNDLE, help="the bundle (default: the package's own)")
    add(
        "--work", type=Path, default=Path("runs/bundle"), help="training images and checkpoints (default: %(default)s)"
    )
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which to train (default: all)")
    add("--num-proc", type=int, default=2, help="rendering processes (default: %(default)s)")
    add("--measure", action="store_true", help="only measure the models that are there, and write it into their cards")
    add("--real-data", type=Path, help="folder of real Open-i images with openi_iu.csv, measured too if given")
    add_debug_option(arguments)
    return arguments


@command("scripts.bundle")
def main(argv: list[str] | None = None) -> int:
    """Makes or measures the bundle and returns the exit code: 0 done, 1 failed."""
    args = parser().parse_args(argv)
    if not args.measure:
        make(args)
    measure_all(args.out, args.work, args.real_data, args.seed)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out} holds {size / 1e6:.1f} MB")
    return 0


def make(args: argparse.Namespace) -> None:
    """Images to learn from, models, images to show, in this order."""
    from dataset_builder.build import build
    from dataset_builder.generators.phantom import PhantomGenerator
    from dataset_builder.reports.grammar import write_reports

    training = args.work / f"{DATASET}-training"
    build(
        write_reports(TRAINING_IMAGES, args.seed + 1),
        PhantomGenerator(IMAGE_SIZE),
        training,
        seed=args.seed + 1,
        num_proc=args.num_proc,
        image_format="jpeg",
        splits=(0.9, 0.1, 0.0),
        source={"num_samples": TRAINING_IMAGES},
    )
    for name in args.models:
        if not (args.work / name / "README.md").is_file():
            train(name, training, args.work / name, args.seed)
        store(args.work / name, args.out / "models" / name)
    make_images(args.out / DATASET, args.seed, args.num_proc)


if __name__ == "__main__":
    sys.exit(main())
