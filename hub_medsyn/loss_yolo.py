"""YOLOv3's loss and decoding: pure functions of tensors, without parameters and without a loop over cells or boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert

RULES = ("official", "fixed")
IGNORE_IOU = 0.5
LAMBDA_XY = LAMBDA_WH = 2.5
LAMBDA_EMPTY = 0.5


def shape_iou(sizes: Tensor, anchors: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """IoU of boxes and anchors laid on one corner: `(boxes, anchors)`.

    Args:
        sizes (`torch.Tensor` of shape `(boxes, 2)`): Width and height.
        anchors (`torch.Tensor` of shape `(anchors, 2)`): Likewise, in the same unit.
        margin (`float` or `torch.Tensor` of shape `(2,)`, *optional*, defaults to 0): Added to every width and height.
    """
    sizes, anchors = sizes[:, None] + margin, anchors[None] + margin  # (boxes, 1, 2), (1, anchors, 2)
    overlap = torch.minimum(sizes, anchors).prod(-1)  # (boxes, anchors)
    return overlap / (sizes.prod(-1) + anchors.prod(-1) - overlap)


def yolo_loss(
    output: Tensor,
    images: Tensor,
    boxes: Tensor,
    classes: Tensor,
    anchors: Tensor,
    image_size: int,
    rule: str = "fixed",
) -> dict[str, Tensor]:
    """The loss of one scale (Redmon and Farhadi 2018, section 2, with squared errors and weights of published code).

    Each box belongs to the cell that holds its centre and to the anchor of this scale most like it in shape, at every
    scale; of two boxes that meet there, the later counts, and the classes of both. Other anchors of that cell with an
    IoU above 0.5 are left out, all others should be empty. Every part is a sum divided by the number of all cells and
    anchors, so that a batch without boxes has a loss of emptiness alone.

    `official` equals the published code, which adds one to the sides of boxes and anchors, as for pixels, where they
    are measured in cells, and wants the anchor that has to find a box to be empty as well, with half the weight, if
    its IoU is at most 0.5. `fixed` does neither.

    Args:
        output (`torch.Tensor` of shape `(batch, anchors * (5 + classes), rows, columns)`): Of the head.
        images (`torch.LongTensor` of shape `(boxes,)`): The image that each box is on.
        boxes (`torch.Tensor` of shape `(boxes, 4)`): Centre x and y, width, height, as fractions of the image.
        classes (`torch.LongTensor` of shape `(boxes,)`): The number of each box's class.
        anchors (`torch.Tensor` of shape `(anchors, 2)`): Width and height in pixels.
        image_size (`int`): Side of the image in pixels.
        rule (`str`, *optional*, defaults to `"fixed"`): `official` or `fixed`.

    Returns:
        `dict[str, torch.Tensor]`: `total` = 2.5 (`x` + `y` + `w` + `h`) + `conf` + `cls`, and its parts; scalars.

    Raises:
        ValueError: There is no such rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} of the YOLO loss is not one of {', '.join(RULES)}")
    batch, channels, rows, columns = output.shape
    number = len(anchors)
    output = output.view(batch, number, channels // number, rows, columns).movedim(2, -1).float()
    anchors = anchors.to(output)
    grid = output.new_tensor([columns, rows])
    places = boxes[:, :2].to(output) * grid  # (boxes, 2), in cells
    cells = torch.minimum(places.long(), grid.long() - 1)  # (boxes, 2); a centre on the last edge is in the last cell
    sizes = boxes[:, 2:].to(output) * image_size  # (boxes, 2), in pixels
    # differs from HKU-MedAI/MGCA: there one is added to sides that are measured in cells, not in pixels
    margin = image_size / grid if rule == "official" else 0.0
    ious = shape_iou(sizes, anchors, margin)  # (boxes, anchors)
    best = ious.argmax(1)

    cell = (images * number * rows + cells[:, 1]) * columns + cells[:, 0]  # (boxes,), of anchor 0
    step = rows * columns
    flat = output.reshape(-1, output.shape[-1])  # (batch * anchors * rows * columns, 5 + classes)
    own = cell + best * step  # (boxes,)
    order = torch.arange(len(own), device=own.device)
    last = torch.zeros(len(flat), dtype=torch.long, device=own.device).scatter_reduce(0, own, order, "amax")
    kept = last[own] == order  # (boxes,): of boxes that meet, the last
    wanted = flat.new_zeros(len(flat), flat.shape[1] - 5)  # (all, classes)
    wanted[own, classes] = 1

    empty = torch.ones(len(flat), dtype=torch.bool, device=own.device)
    near = (cell[:, None] + torch.arange(number, device=own.device) * step)[ious > IGNORE_IOU]
    empty[near] = False
    if rule == "fixed":
        # differs from HKU-MedAI/MGCA: there the anchor that has to find a box also has to be empty, if unlike it
        empty[own] = False

    at, box = flat[own[kept]], kept.nonzero()[:, 0]  # (found, 5 + classes), (found,)
    offset = (places - cells)[box]  # (found, 2)
    scale = (sizes[box] / anchors[best[box]]).log()  # (found, 2)
    count = len(flat)
    centre = F.binary_cross_entropy_with_logits(at[:, :2], offset, reduction="none").sum(0) / count  # (2,)
    side = (at[:, 2:4] - scale).square().sum(0) / count  # (2,)
    conf = (F.softplus(-at[:, 4]).sum() + LAMBDA_EMPTY * F.softplus(flat[empty, 4]).sum()) / count
    cls = F.binary_cross_entropy_with_logits(at[:, 5:], wanted[own[kept]], reduction="sum")
    parts = {"x": centre[0], "y": centre[1], "w": side[0], "h": side[1], "conf": conf, "cls": cls / wanted.numel()}
    total = LAMBDA_XY * centre.sum() + LAMBDA_WH * side.sum() + conf + parts["cls"]
    return {"total": total, **parts}


def decode(output: Tensor, anchors: Tensor, image_size: int) -> Tensor:
    """What the head says of one scale, anchor by anchor, row by row.

    Args:
        output (`torch.Tensor` of shape `(batch, anchors * (5 + classes), rows, columns)`): Of the head.
        anchors (`torch.Tensor` of shape `(anchors, 2)`): Width and height in pixels.
        image_size (`int`): Side of the image in pixels.

    Returns:
        `torch.Tensor` of shape `(batch, anchors * rows * columns, 5 + classes)`: Centre x and y, width and height in
        pixels, then the logits of objectness and classes.
    """
    batch, channels, rows, columns = output.shape
    number = len(anchors)
    output = output.view(batch, number, channels // number, rows, columns).movedim(2, -1).float()
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corner = torch.stack([x, y], -1).to(output)  # (rows, columns, 2)
    cell = output.new_tensor([image_size / columns, image_size / rows])
    centre = (output[..., :2].sigmoid() + corner) * cell  # (batch, anchors, rows, columns, 2)
    size = output[..., 2:4].exp() * anchors.to(output)[:, None, None]
    return torch.cat([centre, size, output[..., 4:]], -1).flatten(1, 3)


def non_maximum_suppression(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float = 0.5) -> Tensor:
    """Which boxes of one image stay: the best, and every one that overlaps no better one of its class too much.

    Boxes reach from their first pixel to their last, both included, as in the published code: a side is one longer
    than the difference of its ends.

    Args:
        boxes (`torch.Tensor` of shape `(boxes, 4)`): Corners x0, y0, x1, y1 in pixels.
        scores (`torch.Tensor` of shape `(boxes,)`): The larger is the better.
        classes (`torch.LongTensor` of shape `(boxes,)`): Boxes of two classes leave each other alone.
        iou (`float`, *optional*, defaults to 0.5): The IoU above which the worse of two boxes goes.

    Returns:
        `torch.LongTensor`: Their numbers, by falling score.
    """
    ends = boxes + boxes.new_tensor([0, 0, 1, 1])
    return batched_nms(ends, scores, classes, iou)


def select(
    centred: Tensor, objectness: Tensor, logits: Tensor, threshold: float = 0.5, iou: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of one image: objectness of at least `threshold`, then [`non_maximum_suppression`].

    Args:
        centred (`torch.Tensor` of shape `(candidates, 4)`): Centre x and y, width and height in pixels.
        objectness (`torch.Tensor` of shape `(candidates,)`): As logits.
        logits (`torch.Tensor` of shape `(candidates, classes)`): Of the classes.
        threshold (`float`, *optional*, defaults to 0.5): The least objectness, between 0 and 1.
        iou (`float`, *optional*, defaults to 0.5): See [`non_maximum_suppression`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: Corners `(kept, 4)`, objectness between 0 and 1 and class
        `(kept,)`, by falling objectness.
    """
    scores = objectness.sigmoid()
    likely = scores >= threshold
    boxes = box_convert(centred[likely], "cxcywh", "xyxy")
    scores, classes = scores[likely], logits[likely].argmax(-1)
    kept = non_maximum_suppression(boxes, scores, classes, iou)
    return boxes[kept], scores[kept], classes[kept]
