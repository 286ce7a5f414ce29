"""How long a training step takes: seconds, pairs a second and peak GPU memory of each method, plain and sped up.

A step is what the trainer does with one batch on one device: encode, losses, backward, clip the gradients where the
method's preset says so, and AdamW; batch size, text length and optimiser are those of the method's `fixed` preset.
Encoders are a ResNet-50 and a BERT-base of random weights, images and texts are random numbers that lie on the device
already: reading, decoding and copying data is not measured, nor are gathering features and logging. Warm-up steps
(compilation among them) are not counted; the device is synchronised before and after each timed step. float32 is as
torch has it by default, TF32 left off. A combination that does not fit into memory gets a line that says so.

    python -m benchmarks.step_time --out step_time.csv          # all methods and ways, on a GPU if there is one
    python -m benchmarks.step_time --sizes tiny --steps 2       # shows on a CPU that the command runs
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from pathlib import Path

import timm
import torch
import transformers
from torch import Tensor
from tqdm import tqdm
from transformers import BertConfig, TimmWrapperConfig

from benchmarks.record import markdown_table, write_csv
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from trainers.method_trainers import METHODS

WAYS = {
    "plain": (),
    "channels_last": ("channels_last",),
    "bf16": ("bf16",),
    "bf16+channels_last": ("bf16", "channels_last"),
    "bf16+channels_last+compile": ("bf16", "channels_last", "compile"),
}
# ConVIRT's preset leaves texts as long as they are; this holds all sentences of radiology reports but the rarest.
CONVIRT_TOKENS = 64
FIRST_ORDINARY_TOKEN = 1000  # in BERT's vocabularies
# Batches of different content: the first rounds over them are the warm-up, so that shapes repeat afterwards.
BATCHES = 2


def tiny_encoders() -> tuple[TimmWrapperConfig, BertConfig]:
    vision = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64], "stem_width": 8}
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return TimmWrapperConfig(architecture="resnet18", model_args=vision), BertConfig(vocab_size=2000, **text)


def make_model(method: str, tiny: bool, image_size: int) -> MedSynPreTrainedModel:
    """Random weights, as the trainer gets it."""
    vision, text = tiny_encoders() if tiny else (TimmWrapperConfig(architecture="resnet50"), BertConfig())
    model_class = METHODS[method].model_class
    heads = {"upsample_size": None} if tiny and method != "convirt" else {}
    model = model_class(
        model_class.config_class(vision_config=vision, text_config=text, image_size=image_size, **heads)
    )
    model.continues_word[FIRST_ORDINARY_TOKEN::4] = True  # one piece of four continues a word
    model.freeze()
    return model.train()


def make_batch(model: MedSynPreTrainedModel, size: int, tokens: int, seed: int) -> dict[str, Tensor]:
    """Random images and texts of a third of `tokens` to all of them."""
    config, generator = model.config, torch.Generator().manual_seed(seed)
    vocabulary = config.text_config.vocab_size
    ids = torch.randint(FIRST_ORDINARY_TOKEN, vocabulary, (size, tokens), generator=generator)
    lengths = torch.randint(max(tokens // 3, 3), tokens + 1, (size,), generator=generator)
    lengths[0] = tokens
    position = torch.arange(tokens)
    ids[:, 0] = config.cls_token_id
    ids = torch.where(position == lengths[:, None] - 1, config.sep_token_id, ids)
    mask = position < lengths[:, None]
    pixel_values = torch.randn(size, 3, config.image_size, config.image_size, generator=generator)
    return {"pixel_values": pixel_values, "input_ids": ids * mask, "attention_mask": mask.long()}


def measure(
    method: str, way: str, tiny: bool, image_size: int, batch_size: int, tokens: int, steps: int, device: torch.device
) -> dict:
    """Median step and peak memory; without numbers if the GPU's memory runs out."""
    preset, options = METHODS[method].presets["fixed"], WAYS[way]
    model = make_model(method, tiny, image_size).to(device)
    batches = [
        {name: values.to(device) for name, values in make_batch(model, batch_size, tokens, seed).items()}
        for seed in range(BATCHES)
    ]
    if "channels_last" in options:
        model.vision_model.to(memory_format=torch.channels_last)
        for batch in batches:
            batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=preset["learning_rate"],
        betas=(preset.get("adam_beta1", 0.9), 0.999),
        weight_decay=preset["weight_decay"],
        fused=device.type == "cuda",
    )
    encode = torch.compile(model) if "compile" in options else model
    precision = torch.autocast(device.type, torch.bfloat16) if "bf16" in options else contextlib.nullcontext()
    # What Trainer clips at where a preset does not say.
    largest = preset.get("max_grad_norm", 1.0)

    def step(batch):
        with precision:
            features = encode(**batch, features_only=True)
            loss = sum(model.losses(features).values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    def synchronize():
        if device.type == "cuda":
            torch.cuda.synchronize()

    try:
        for batch in batches * 2:
            loss = step(batch)
        synchronize()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for batch in itertools.islice(itertools.cycle(batches), steps):
            start = time.perf_counter()
            loss = step(batch)
            synchronize()
            seconds.append(time.perf_counter() - start)
    except torch.cuda.OutOfMemoryError:
        return {"outcome": "out of memory"}
    median = statistics.median(seconds)
    return {
        "outcome": "ran" if torch.isfinite(loss) else "loss not finite",
        "step_seconds": round(median, 4),
        "step_seconds_min": round(min(seconds), 4),
        "step_seconds_max": round(max(seconds), 4),
        "pairs_per_second": round(batch_size / median, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else "",
    }


def table(rows: list[dict]) -> str:
    columns = "method way batch_size tokens outcome step_seconds pairs_per_second times_faster peak_gib".split()
    return markdown_table(columns, [[row.get(name, "") for name in columns] for row in rows])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="step_time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--sizes",
        choices=["full", "tiny"],
        help="full: ResNet-50, BERT-base, 224 px, the methods' own batches; tiny: small encoders, 32 px, 4 pairs "
        "(default: full on a GPU, tiny on a CPU)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: the method's own, 4 where tiny")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="timed steps (default: 20)")
    parser.add_argument("--device", help="default: the first GPU, or the CPU")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("step_time.csv"), metavar="CSV", help="the table goes beside it as .md"
    )
    args = parser.parse_args(argv)
    if args.steps < 1 or (args.batch_size is not None and args.batch_size < 2):
        parser.error(f"--steps {args.steps} must be 1 or more and --batch-size {args.batch_size} 2 or more")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tiny = (args.sizes or ("full" if device.type == "cuda" else "tiny")) == "tiny"
    image_size = 32 if tiny else 224
    rows = []
    for method, way in tqdm(list(itertools.product(args.methods, args.ways)), desc="method and way", disable=None):
        preset = METHODS[method].presets["fixed"]
        batch_size = args.batch_size or (4 if tiny else preset["per_device_train_batch_size"])
        tokens = 12 if tiny else preset.get("max_text_tokens", CONVIRT_TOKENS)
        torch.manual_seed(args.seed)
        row = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "timm": timm.__version__,
            "sizes": "tiny" if tiny else "full",
            "image_size": image_size,
            "method": method,
            "way": way,
            "batch_size": batch_size,
            "tokens": tokens,
            "steps": args.steps,
            **measure(method, way, tiny, image_size, batch_size, tokens, args.steps, device),
        }
        plain = next(
            (r for r in rows if r["method"] == method and r["way"] == "plain" and r["outcome"] == "ran"), None
        )
        if plain and row["outcome"] == "ran":
            row["times_faster"] = round(plain["step_seconds"] / row["step_seconds"], 2)
        rows.append(row)
        write_csv(args.out, rows)  # each line is kept, should a later one fail
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    text = table(rows)
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
