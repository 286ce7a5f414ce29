"""An index of a dataset's images and reports: embedded once, kept on disk, searched without being read into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import ProcessorMixin

from hub_medsyn.inference.embedding import embed_images, embed_texts
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from medsyn.errors import UserError

EMBEDDINGS, HEAD = "index.safetensors", "index.json"
FORMAT, VERSION = "medsyn-film-index", 1
BLOCK = 16384  # rows that a query meets at once: 8 MB of 128 float32
TIE = 1e-6  # single precision gives one cosine several values, depending on how it was summed
IMAGES_IN_HASH = 32


class ImageIndex:
    """Images and distinct reports of a dataset in the space of one model.

    Rows are numbers of rows of the dataset: the index keeps no text and no image. Made by [`ImageIndex.build`] or
    [`ImageIndex.load`]. What is compared are the global embeddings: for GLoRIA, whose own similarity also attends to
    words, that is a part of it.

    Args:
        images (`torch.Tensor` of shape `(images, dim)`): Of unit length; row `i` is the dataset's row `i`.
        reports (`torch.Tensor` of shape `(reports, dim)`): Of unit length.
        report_rows (`torch.Tensor` of shape `(reports,)`): The first row of the dataset that has each report.
        head (`dict`): What `index.json` holds.
    """

    def __init__(self, images: Tensor, reports: Tensor, report_rows: Tensor, head: dict):
        self.images, self.reports, self.report_rows, self.head = images, reports, report_rows, head

    @classmethod
    def build(
        cls,
        model: MedSynPreTrainedModel,
        processor: ProcessorMixin,
        rows: datasets.Dataset,
        text_column: str = "prompt",
        image_column: str = "image",
        batch_size: int = 32,
    ) -> ImageIndex:
        """Embeds every image and every distinct report; images are decoded a batch at a time.

        Args:
            model ([`ConVIRTModel`], [`GLoRIAModel`] or [`MGCAModel`]): On any device.
            processor (`ProcessorMixin`): Saved with the model.
            rows (`datasets.Dataset`): One split.
            text_column (`str`, *optional*, defaults to `"prompt"`): The reports; rows without one have an image only.
            image_column (`str`, *optional*, defaults to `"image"`): The images.
            batch_size (`int`, *optional*, defaults to 32): Images that are encoded at once.

        Raises:
            UserError: If a column is missing, no row has a report, or an image cannot be used.
        """
        missing = [name for name in (text_column, image_column) if name not in rows.column_names]
        if missing:
            raise UserError(f"the dataset has no column {', '.join(missing)}; it has {', '.join(rows.column_names)}")
        first: dict[str, int] = {}
        for row, text in enumerate(rows[text_column]):
            if text and text.strip():
                first.setdefault(text, row)
        if not first:
            raise UserError(f"none of the {len(rows)} rows has a report in {text_column}; name another text_column")
        head = {
            "format": FORMAT,
            "version": VERSION,
            "model_sha256": model_hash(model, processor),
            "dataset_sha256": dataset_hash(rows, text_column, image_column),
            "text_column": text_column,
            "image_column": image_column,
            "images": len(rows),
            "reports": len(first),
        }
        return cls(
            embed_images(model, processor, _Images(rows, image_column), batch_size),
            embed_texts(model, processor, list(first)),
            torch.tensor(list(first.values())),
            head,
        )

    def save(self, folder: str | Path) -> None:
        """Writes `index.safetensors` and, once that is whole, `index.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / HEAD).unlink(missing_ok=True)  # an index without its head is none
        tensors = {"images": self.images, "reports": self.reports, "report_rows": self.report_rows}
        partial = folder / f".{EMBEDDINGS}.partial"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        os.replace(partial, folder / EMBEDDINGS)
        partial = folder / f".{HEAD}.partial"
        partial.write_text(json.dumps(self.head, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder / HEAD)

    @classmethod
    def load(
        cls, folder: str | Path, model: MedSynPreTrainedModel, processor: ProcessorMixin, rows: datasets.Dataset
    ) -> ImageIndex:
        """Opens a saved index of this model and dataset; the embeddings stay on disk until they are looked at.

        Raises:
            FileNotFoundError: If there is no whole index in the folder.
            UserError: If it is an index of another model or dataset, or its files are damaged.
        """
        folder = Path(folder)
        for name in (HEAD, EMBEDDINGS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"there is no index in {folder} ({name} is missing); build one and save it there"
                )
        remedy = "build it anew with ImageIndex.build and save it there"
        try:
            head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{folder / HEAD} is damaged; {remedy}") from error
        if not isinstance(head, dict) or (head.get("format"), head.get("version")) != (FORMAT, VERSION):
            raise UserError(f"{folder / HEAD} is no head of a {FORMAT} of version {VERSION}; {remedy}")
        if head["model_sha256"] != model_hash(model, processor):
            raise UserError(f"{folder} is an index of another model, or of this one before it changed; {remedy}")
        columns = head["text_column"], head["image_column"]
        if head["images"] != len(rows) or head["dataset_sha256"] != dataset_hash(rows, *columns):
            raise UserError(
                f"{folder} is an index of another dataset: of {head['images']} images, where {len(rows)} are given; "
                f"{remedy}"
            )
        try:
            with safe_open(folder / EMBEDDINGS, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("images", "reports", "report_rows")}
        except SafetensorError as error:
            raise UserError(f"{folder / EMBEDDINGS} is damaged; {remedy}") from error
        if (len(tensors["images"]), len(tensors["reports"])) != (head["images"], head["reports"]):
            raise UserError(f"{folder / EMBEDDINGS} does not belong to {HEAD} beside it; {remedy}")
        return cls(**tensors, head=head)

    def nearest(self, embed: Tensor, k: int, among: Literal["images", "reports"] = "images") -> tuple[Tensor, Tensor]:
        """The k images, or distinct reports, nearest to an embedding, by cosine.

        Cosines within 1e-6 of each other, in steps of that size, are ties; of these the earlier row comes first. The
        index is met in blocks, so that memory does not grow with it.

        Args:
            embed (`torch.Tensor` of shape `(dim,)` or `(queries, dim)`): From `embed_images` or `embed_texts`, of any
                length but 0.
            k (`int`): How many.
            among (`str`, *optional*, defaults to `"images"`): `images` or `reports`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Cosines in steps of 1e-6, the best first, and rows of the dataset; for
            a report its first. `(k,)` each, or `(queries, k)`.

        Raises:
            UserError: If `k` is less than 1 or more than there are, the width differs, or `embed` is not finite or 0.
        """
        if among not in ("images", "reports"):
            raise UserError(f"among={among!r} is neither images nor reports")
        index = self.images if among == "images" else self.reports
        queries = embed.detach().float().cpu()
        queries = queries[None] if queries.ndim == 1 else queries
        if queries.ndim != 2 or queries.shape[1] != index.shape[1]:
            raise UserError(
                f"embed of shape {tuple(embed.shape)} is not ({index.shape[1]},) or (queries, {index.shape[1]})"
            )
        if not queries.isfinite().all() or not queries.norm(dim=1).all():
            raise UserError("embed holds NaN, infinite values, or nothing but zeros, which are near to nothing")
        if not 1 <= k <= len(index):
            raise UserError(f"k={k} of an index with {len(index)} {among}; pass k between 1 and that")
        queries = F.normalize(queries, dim=1)
        keys = queries.new_empty(len(queries), 0, dtype=torch.long)
        for start in range(0, len(index), BLOCK):
            cosines = queries @ index[start : start + BLOCK].T  # (queries, block)
            rows = torch.arange(start, start + cosines.shape[1])
            # One number to sort by: the cosine in steps of TIE, then the earlier row.
            block = (cosines.double() / TIE).round().long() * len(index) - rows
            keys = torch.cat([keys, block.topk(min(k, block.shape[1]), dim=1).values], 1)
            keys = keys.topk(min(k, keys.shape[1]), dim=1).values
        numbers = -keys % len(index)  # (queries, k)
        cosines = ((keys + numbers) // len(index)).double().mul(TIE).float()
        if among == "reports":
            numbers = self.report_rows[numbers]
        return (cosines[0], numbers[0]) if embed.ndim == 1 else (cosines, numbers)


class _Images(Sequence):
    """The images of a dataset, decoded when they are asked for; its length lets progress be told."""

    def __init__(self, rows: datasets.Dataset, column: str):
        self.rows, self.column = rows.select_columns([column]), column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row][self.column]

    def __iter__(self) -> Iterator:
        return (row[self.column] for row in self.rows)


def model_hash(model: MedSynPreTrainedModel, processor: ProcessorMixin) -> str:
    """SHA-256 of a model's weights and of all that its processor does to images and texts."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    images = {name: value for name, value in processor.image_processor.to_dict().items() if "version" not in name}
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    digest.update(json.dumps([images, vocabulary], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def dataset_hash(rows: datasets.Dataset, text_column: str = "prompt", image_column: str = "image") -> str:
    """SHA-256 of a dataset's ids, seeds and reports, and of the encoded images of 32 rows spread over it.

    Reading every image would take minutes where the index has 200,000 of them; one that was drawn anew differs in the
    32 too.
    """
    digest = hashlib.sha256(f"{len(rows)}\0".encode())
    there = [name for name in ("image_id", "seed", text_column) if name in rows.column_names]
    for batch in rows.select_columns(there).iter(4096):
        digest.update(json.dumps([batch[name] for name in there]).encode())
    images = rows.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    for row in np.unique(np.linspace(0, len(rows) - 1, IMAGES_IN_HASH).astype(int)):
        image = images[int(row)][image_column]
        digest.update(image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes())
    return digest.hexdigest()
