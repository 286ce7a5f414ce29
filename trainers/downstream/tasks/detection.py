"""A YOLOv3 detector trained on the maps of a frozen encoder, which are computed once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback

from hub_medsyn import MedSynDetectionImageProcessor, MedSynForObjectDetection
from hub_medsyn.metrics.mean_average_precision import mean_average_precision
from medsyn.errors import UserError
from trainers.downstream.encoders import FrozenEncoder
from trainers.downstream.images.annotated_images import AnnotatedImages
from trainers.downstream.tasks.detection_maps import DetectionSettings, FeatureMaps, new_detector
from trainers.downstream.tasks.head_training import training_arguments

OVERHANG = 1.0  # pixel by which rounding may put a box's edge outside its image


@dataclass(frozen=True)
class DetectionRun:
    """What [`train_detector`] returns.

    Args:
        predictions (`dict[int, tuple[np.ndarray, np.ndarray]]`): For each row of the test split boxes `(n, 4)`,
            corners in pixels of the image as it is stored, and scores `(n,)`, falling.
        metrics (`dict[str, float]`): Those of [`~hub_medsyn.metrics.mean_average_precision`] on the test split,
            `validation_map` of the epoch kept, `best_epoch`, `epochs` that were run.
        model ([`~hub_medsyn.MedSynForObjectDetection`]): The detector of the best epoch; its encoder is the one given.
        processor ([`~hub_medsyn.MedSynDetectionImageProcessor`]): Its image processor, to be saved with it.
    """

    predictions: dict[int, tuple[np.ndarray, np.ndarray]]
    metrics: dict[str, float]
    model: MedSynForObjectDetection
    processor: MedSynDetectionImageProcessor


def checked_boxes(images: AnnotatedImages, row: int, max_boxes: int = 100) -> np.ndarray:
    """The boxes of a row, `(n, 4)`, cut off at the image's edges if they pass them by no more than a pixel.

    Raises:
        UserError: A box is outside the image, has no area or is not finite, or there are more than `max_boxes`; the
            image is named.
    """
    boxes = np.asarray(images.boxes(row), dtype=np.float32).reshape(-1, 4)
    width, height = images.size(row)
    where = f"{images.name}: image {images.ids[row]} ({width} x {height} pixels)"
    if len(boxes) > max_boxes:
        raise UserError(f"{where} has {len(boxes)} boxes, more than max_boxes {max_boxes}: raise it, or mend the row")
    cut = np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))
    for box, inside in zip(boxes, cut, strict=True):
        if not np.abs(box - inside).max() <= OVERHANG:  # NaN too
            raise UserError(f"{where}: box {box.tolist()} is not inside; boxes are x0, y0, x1, y1 in pixels")
        if not (inside[2:] > inside[:2]).all():
            raise UserError(f"{where}: box {box.tolist()} has no area; boxes are x0, y0, x1, y1 in pixels")
    return cut


class DetectionRows(Dataset):
    """Rows as the detector takes them, with their true boxes."""

    def __init__(self, maps: FeatureMaps, rows: np.ndarray, max_boxes: int):
        self.maps, self.rows = maps, [int(row) for row in rows]
        self.boxes = [checked_boxes(maps.images, row, max_boxes) for row in self.rows]
        self.sizes = [maps.images.size(row)[::-1] for row in self.rows]  # height, width

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict:
        boxes = self.maps.processor.boxes_to_square(self.boxes[place], *self.sizes[place])
        labels = {"boxes": torch.from_numpy(boxes), "class_labels": torch.zeros(len(boxes), dtype=torch.long)}
        return self.maps.inputs(self.rows[place]) | {"labels": labels}


def collate(items: list[dict]) -> dict:
    """Stacks maps or pixels; labels stay a list, an image each."""
    batch = {"labels": [item["labels"] for item in items]}
    if "pixel_values" in items[0]:
        return batch | {"pixel_values": torch.stack([item["pixel_values"] for item in items])}
    scales = zip(*(item["feature_maps"] for item in items), strict=True)
    return batch | {"feature_maps": tuple(torch.stack(scale) for scale in scales)}


@torch.no_grad()
def map_scale(model: MedSynForObjectDetection, rows: DetectionRows, batch_size: int) -> Tensor:
    """The root mean square of each of the encoder's maps over `rows`, `(maps,)`.

    Raises:
        UserError: A map is zero everywhere.
    """
    squares = 0.0
    for batch in DataLoader(rows, batch_size=batch_size, collate_fn=collate):
        maps = (
            batch["feature_maps"]
            if "feature_maps" in batch
            else model.encode_maps(batch["pixel_values"].to(model.device))
        )
        squares += torch.stack([one.double().square().mean((1, 2, 3)).sum() for one in maps])  # (maps,)
    if not (squares > 0).all():
        raise UserError(
            f"the encoder's maps are zero on all of the {len(rows)} training images: nothing to learn from"
        )
    return (squares / len(rows)).sqrt().float()


@torch.no_grad()
def detect(
    model: MedSynForObjectDetection, rows: DetectionRows, settings: DetectionSettings
) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], float]:
    """What the detector finds on each row, corners in pixels of its image and scores, and the mean of the loss."""
    model.eval()
    predictions, total, start = {}, 0.0, 0
    for batch in DataLoader(rows, batch_size=settings.batch_size, collate_fn=collate):
        batch["labels"] = [{name: value.to(model.device) for name, value in one.items()} for one in batch["labels"]]
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(model.device)
        else:
            batch["feature_maps"] = tuple(one.to(model.device) for one in batch["feature_maps"])
        output = model(**batch)
        end = start + len(batch["labels"])
        found = rows.maps.processor.post_process_object_detection(
            output, settings.score_threshold, rows.sizes[start:end], settings.nms_threshold
        )
        for row, one in zip(rows.rows[start:end], found, strict=True):
            predictions[row] = (one["boxes"].cpu().numpy(), one["scores"].cpu().numpy())
        total += float(output.loss) * (end - start)
        start = end
    return predictions, total / len(rows)


def score(predictions: dict[int, tuple[np.ndarray, np.ndarray]], rows: DetectionRows) -> dict[str, float]:
    """Mean average precision of what [`detect`] found on `rows`."""
    found = [{"boxes": predictions[row][0], "scores": predictions[row][1]} for row in rows.rows]
    return mean_average_precision(found, [{"boxes": boxes} for boxes in rows.boxes])


class DetectionTrainer(Trainer):
    """Trains neck and head; evaluation finds boxes and scores them."""

    def __init__(self, settings: DetectionSettings, **kwargs):
        super().__init__(data_collator=collate, **kwargs)
        self.settings = settings

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        rows = eval_dataset or self.eval_dataset
        predictions, loss = detect(self.model, rows, self.settings)
        if not np.isfinite(loss):
            raise UserError(
                f"the detector's loss is {loss} after {self.state.epoch:g} epochs: lower learning_rate "
                f"{self.settings.learning_rate:g}"
            )
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_map": score(predictions, rows)["map"]}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs) -> int:
        return 0  # transformers counts them in tokens


class BestEpoch(TrainerCallback):
    """Keeps the neck and head of the epoch with the best validation mAP, and ends training when none gets better.

    Of two epochs with the same, as when nothing is found yet, the one with the lower validation loss is better.
    """

    # differs from HKU-MedAI/MGCA: there ten epochs that find nothing end the training, whatever the loss does

    def __init__(self, patience: int, epochs: int):
        self.patience = patience
        self.epoch, self.best, self.weights = 0, None, {}
        self.bar = tqdm(total=epochs, desc="training the detector", unit="epoch", delay=2)

    def on_evaluate(self, args, state, control, metrics, model, **kwargs):
        epoch = round(state.epoch)
        rank = (metrics["eval_map"], -metrics["eval_loss"])
        if self.best is None or rank > self.best:
            self.epoch, self.best = epoch, rank
            self.weights = {
                name: value.clone()
                for name, value in model.state_dict().items()
                if not name.startswith("vision_model.")
            }
        elif epoch - self.epoch >= self.patience:
            control.should_training_stop = True
        self.bar.set_postfix(loss=f"{metrics['eval_loss']:.4f}", map=f"{metrics['eval_map']:.3f}", refresh=False)
        self.bar.update()


def train_detector(
    encoder: FrozenEncoder,
    images: AnnotatedImages,
    rows: np.ndarray,
    seed: int,
    settings: DetectionSettings,
    maps: FeatureMaps | None = None,
) -> DetectionRun:
    """Trains a detector on some training rows, keeps its best epoch on the validation split, and finds boxes on test.

    Without augmentation and with a frozen encoder the encoder's maps never change: they are computed once.

    Args:
        encoder ([`~trainers.downstream.encoders.FrozenEncoder`]): With its `architecture`.
        images ([`~trainers.downstream.images.annotated_images.AnnotatedImages`]): With `boxes`.
        rows (`np.ndarray`): The training rows.
        seed (`int`): Of the head's weights and of the order of the images.
        settings ([`DetectionSettings`]): Everything else.
        maps ([`FeatureMaps`], *optional*): Of all rows concerned and by the same settings, to be shared by several
            calls; by default they are computed here.

    Raises:
        UserError: A box or an image cannot be used, naming the image; the training rows, the validation or the test
            split have no box; or the loss is not finite.
    """
    validation, test = images.rows("validation"), images.rows("test")
    for name, subset in (("training rows", rows), ("validation split", validation), ("test split", test)):
        if not any(len(checked_boxes(images, row, settings.max_boxes)) for row in subset):
            raise UserError(
                f"{images.name}: none of the {len(subset)} images of the {name} has a box, and a detector needs one: "
                "take more of the labels, another draw, or another split"
            )
    if maps is None:
        maps = FeatureMaps(encoder, images, np.concatenate([rows, validation, test]), settings)
    train_rows, validation_rows, test_rows = (
        DetectionRows(maps, subset, settings.max_boxes) for subset in (rows, validation, test)
    )
    model, processor = new_detector(encoder, seed, settings)
    model.to(settings.device)
    if settings.preset == "fixed":
        # differs from HKU-MedAI/MGCA: there maps are taken in whatever unit the encoder gives them
        model.map_scale.copy_(map_scale(model, train_rows, settings.encoding_batch_size))
    best = BestEpoch(settings.patience, settings.epochs)
    with tempfile.TemporaryDirectory() as folder:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        trainer = DetectionTrainer(
            settings,
            model=model,
            args=training_arguments(folder, settings, seed),
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            callbacks=[best],
            optimizers=(optimizer, None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    best.bar.close()
    model.load_state_dict(best.weights, strict=False)
    predictions, _ = detect(model, test_rows, settings)
    metrics = score(predictions, test_rows) | {
        "validation_map": best.best[0],
        "best_epoch": float(best.epoch),
        "epochs": float(round(trainer.state.epoch)),
    }
    return DetectionRun(predictions, metrics, model.eval(), processor)
