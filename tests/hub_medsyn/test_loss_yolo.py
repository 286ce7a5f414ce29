"""YOLOv3's loss, decoding and suppression against the published code's own numbers, and against loops over cells."""

import math

import numpy as np
import pytest
import torch

from hub_medsyn.loss_yolo import RULES, decode, non_maximum_suppression, select, yolo_loss

# What YOLOLoss of HKU-MedAI/MGCA (commit 680fe4a, yolo_loss.py) makes of three boxes at the coarsest scale
# of a 224-pixel image: the head's output at the boxes' cells, and the parts of the loss that depend on nothing else.
ANCHORS = torch.tensor([[62.46154, 48.46154], [84.0, 106.615387], [200.846161, 175.538467]])
IMAGES = torch.tensor([0, 0, 1])
BOXES = torch.tensor([[0.31, 0.42, 0.2, 0.3], [0.7, 0.55, 0.25, 0.4], [0.5, 0.5, 0.05, 0.06]])
CELLS = {  # image, anchor, row, column
    (0, 0, 2, 2): [0.22070247, 0.042528018, -0.61937046, 0.66456902, -0.54311466, 0.19813533],
    (0, 1, 3, 4): [0.062136803, 0.0083279498, 0.26306477, -0.091664933, -0.35939682, -0.019276546],
    (1, 0, 3, 3): [-0.25991225, 0.020388488, -0.2002577, 0.055243429, 0.22625256, 0.63338554],
}
PARTS = {"x": 0.00485804578, "y": 0.0046668958, "w": 0.0064281028, "h": 0.0043320368, "cls": 0.0039174501}
# Output at a cell, and the box that the same code decodes: centre, width, height in pixels, objectness, class.
DECODED = {
    (0, 0, 0, 0): (
        [-0.59460086, -0.7090947, -0.24378501, -0.56643671, 0.22375621, 0.18527216],
        [11.378557, 10.553565, 48.948368, 27.504065, 0.55570686, 0.54618597],
    ),
    (2, 1, 3, 5): (
        [0.035479482, 0.49961323, 0.69339061, -0.24772534, 0.67277777, 0.29438242],
        [176.28381, 115.91579, 168.04089, 83.22123, 0.66212487, 0.57306868],
    ),
}


def placed(cells: dict) -> torch.Tensor:
    """A map of three images and three anchors on 7 x 7 cells, zero but for `cells`."""
    output = torch.zeros(3, 3, 6, 7, 7)
    for (image, anchor, row, column), values in cells.items():
        output[image, anchor, :, row, column] = torch.tensor(values)
    return output.flatten(1, 2)


def flat_targets(targets: np.ndarray):
    """Padded `(images, boxes, class and box)` as images, boxes and classes of those that are there."""
    targets = torch.tensor(targets, dtype=torch.float32)
    image, place = (targets.sum(-1) != 0).nonzero(as_tuple=True)
    return image, targets[image, place, 1:], targets[image, place, 0].long()


def test_equals_published_constants():
    losses = yolo_loss(placed(CELLS), IMAGES, BOXES, torch.zeros(3).long(), ANCHORS, 224, "official")
    for name, value in PARTS.items():
        np.testing.assert_allclose(losses[name].item(), value, rtol=1e-6)
    decoded = decode(placed({cell: values for cell, (values, _) in DECODED.items()}), ANCHORS, 224)
    for (image, anchor, row, column), (_, expected) in DECODED.items():
        found = decoded[image, anchor * 49 + row * 7 + column]
        np.testing.assert_allclose(torch.cat([found[:4], found[4:].sigmoid()]), expected, rtol=1e-6)


def test_equals_the_golden_numbers(golden):
    with np.load(golden / "yolo_f32.npz") as numbers:
        assert list(numbers["loss_names"]) == ["total", "x", "y", "w", "h", "conf", "cls"]
        targets = flat_targets(numbers["targets"])
        outputs = [torch.tensor(numbers[f"out{scale}"], requires_grad=True) for scale in range(3)]
        anchors = torch.tensor(numbers["anchors"])
        losses = [
            yolo_loss(out, *targets, three, 224, "official") for out, three in zip(outputs, anchors, strict=True)
        ]
        for scale, loss in enumerate(losses):
            expected = numbers[f"losses{scale}"]
            np.testing.assert_allclose([part.item() for part in loss.values()], expected, rtol=1e-5, atol=1e-8)
        total = sum(loss["total"] for loss in losses)
        np.testing.assert_allclose(total.item(), numbers["total"].item(), rtol=1e-6)
        for scale, gradient in enumerate(torch.autograd.grad(total, outputs)):
            np.testing.assert_allclose(gradient, numbers[f"grad{scale}"], rtol=1e-4, atol=1e-8)
        decoded = [decode(*pair, 224).detach() for pair in zip(outputs, anchors, strict=True)]
        for scale, candidates in enumerate(decoded):
            shown = torch.cat([candidates[..., :4], candidates[..., 4:].sigmoid()], -1)
            np.testing.assert_allclose(shown, numbers[f"decoded{scale}"], rtol=1e-5, atol=1e-4)
        for image, candidates in enumerate(torch.cat(decoded, 1)):
            boxes, scores, classes = select(candidates[:, :4], candidates[:, 4], candidates[:, 5:], 0.75, 0.5)
            expected = numbers[f"nms_conf0.75_{image}"]
            assert len(boxes) == len(expected) > 30
            np.testing.assert_allclose(boxes, expected[:, :4], rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(scores, expected[:, 4], rtol=1e-6)
            np.testing.assert_array_equal(classes, expected[:, 6])


def looped(output, images, boxes, classes, anchors, size, rule):
    """The loss, cell by cell and box by box, as its description says."""
    batch, channels, rows, columns = output.shape
    number = len(anchors)
    output = output.view(batch, number, -1, rows, columns).double()
    sums = dict.fromkeys(("x", "y", "w", "h", "conf", "cls"), 0.0)
    owner, near, wanted = {}, set(), {}
    for image, (x, y, w, h), label in zip(images.tolist(), boxes.double().tolist(), classes.tolist(), strict=True):
        column, row = min(int(x * columns), columns - 1), min(int(y * rows), rows - 1)
        extra = 1 if rule == "official" else 0
        ious = []
        for anchor_w, anchor_h in anchors.double().tolist():
            unit = size / columns, size / rows
            a, b = (
                (w * columns + extra) * (h * rows + extra),
                (anchor_w / unit[0] + extra) * (anchor_h / unit[1] + extra),
            )
            both = (min(w * columns, anchor_w / unit[0]) + extra) * (min(h * rows, anchor_h / unit[1]) + extra)
            ious.append(both / (a + b - both))
        best = int(np.argmax(ious))
        near |= {(image, anchor, row, column) for anchor in range(number) if ious[anchor] > 0.5}
        cell = (image, best, row, column)
        size_w, size_h = (
            math.log(side * size / anchor) for side, anchor in zip((w, h), anchors[best].tolist(), strict=True)
        )
        owner[cell] = (x * columns - column, y * rows - row, size_w, size_h)
        wanted.setdefault(cell, set()).add(label)
    for image in range(batch):
        for anchor in range(number):
            for row in range(rows):
                for column in range(columns):
                    cell = (image, anchor, row, column)
                    values = output[image, anchor, :, row, column]
                    p = values.sigmoid()
                    if cell in owner:
                        for name, place in (("x", 0), ("y", 1)):
                            t = owner[cell][place]
                            sums[name] -= t * p[place].log() + (1 - t) * (1 - p[place]).log()
                        sums["w"] += (values[2] - owner[cell][2]) ** 2
                        sums["h"] += (values[3] - owner[cell][3]) ** 2
                        sums["conf"] -= p[4].log()
                        for label in range(len(values) - 5):
                            there = label in wanted[cell]
                            sums["cls"] -= (p[5 + label] if there else 1 - p[5 + label]).log() / (len(values) - 5)
                    if cell not in near and not (rule == "fixed" and cell in owner):
                        sums["conf"] -= 0.5 * (1 - p[4]).log()
    count = batch * number * rows * columns
    parts = {name: float(value) / count for name, value in sums.items()}
    xywh = sum(parts[name] for name in "xywh")
    return {"total": 2.5 * xywh + parts["conf"] + parts["cls"], **parts}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_loop_over_cells(rule, seed):
    """Two classes, boxes that meet in one cell, a centre on the last edge, rows and columns of different number."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(3, 3 * 7, 5, 4, generator=generator)
    boxes = torch.rand(12, 4, generator=generator) * 0.9 + 0.05
    boxes[5] = boxes[4] * torch.tensor([1, 1, 0.99, 1.01])  # meets the one before
    boxes[7, :2] = 1.0
    images = torch.tensor([0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2])
    classes = torch.tensor([0, 1] * 6)
    anchors = torch.tensor([[10.0, 13.0], [40.0, 30.0], [60.0, 80.0]])
    found = yolo_loss(output, images, boxes, classes, anchors, 96, rule)
    expected = looped(output, images, boxes, classes, anchors, 96, rule)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].item(), value, rtol=2e-5, err_msg=name)


def test_what_fixed_mends():
    """A small box is unlike every anchor: `official` wants its anchor full and empty at once."""
    box = torch.tensor([[0.5, 0.5, 0.05, 0.06]])
    output = torch.zeros(1, 18, 7, 7)
    arguments = (torch.tensor([0]), box, torch.tensor([0]), ANCHORS, 224)
    gradients = {}
    for rule in RULES:
        moved = output.clone().requires_grad_()
        yolo_loss(moved, *arguments, rule)["total"].backward()
        gradients[rule] = moved.grad[0, 4, 3, 3].item() * 147  # of the best anchor's objectness, per cell
    np.testing.assert_allclose(gradients["fixed"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(gradients["official"], -0.5 + 0.5 * 0.5, rtol=1e-6)
    # One cell added to every side: a box of 1.4 x 0.6 cells then seems like both anchors, and is like one alone.
    near = torch.tensor([[0.5, 0.5, 1.4 / 7, 0.6 / 7]])
    anchors = torch.tensor([[1.4, 0.6], [1.0, 1.4]]) * 32
    arguments = (torch.tensor([0]), near, torch.tensor([0]), anchors, 224)
    official, fixed = (yolo_loss(torch.zeros(1, 12, 7, 7), *arguments, rule)["conf"].item() for rule in RULES)
    np.testing.assert_allclose(fixed * 98, (1 + 0.5 * 97) * math.log(2), rtol=1e-6)
    np.testing.assert_allclose(official * 98, (1 + 0.5 * 96) * math.log(2), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_without_boxes_is_to_be_empty(rule):
    output = torch.randn(2, 18, 7, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = yolo_loss(output, torch.zeros(0).long(), torch.zeros(0, 4), torch.zeros(0).long(), ANCHORS, 224, rule)
    losses["total"].backward()
    objectness = output.detach().view(2, 3, 6, 7, 7)[:, :, 4]
    assert [losses[name].item() for name in ("x", "y", "w", "h", "cls")] == [0.0] * 5
    np.testing.assert_allclose(
        losses["total"].item(), 0.5 * torch.nn.functional.softplus(objectness).mean(), rtol=1e-5
    )
    assert output.grad.isfinite().all()
    gradient = output.grad.view(2, 3, 6, 7, 7)
    assert (gradient[:, :, 4] > 0).all() and not gradient[:, :, [0, 1, 2, 3, 5]].any()


def test_the_best_output_for_a_box_decodes_to_it():
    box = torch.tensor([[0.33, 0.71, 0.4, 0.2]])
    output = torch.zeros(1, 18, 7, 7, requires_grad=True)
    optimizer = torch.optim.Adam([output], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        yolo_loss(output, torch.tensor([0]), box, torch.tensor([0]), ANCHORS, 224)["total"].backward()
        optimizer.step()
    candidates = decode(output.detach(), ANCHORS, 224)[0]
    boxes, scores, _ = select(candidates[:, :4], candidates[:, 4], candidates[:, 5:])
    assert len(boxes) == 1 and scores[0] > 0.9
    np.testing.assert_allclose(boxes[0], [29.12, 136.64, 118.72, 181.44], atol=0.5)


def naive_suppression(boxes, scores, classes, iou):
    kept = []
    for one in sorted(range(len(boxes)), key=lambda number: -scores[number]):
        for other in kept:
            if classes[one] == classes[other]:
                low, high = np.maximum(boxes[one][:2], boxes[other][:2]), np.minimum(boxes[one][2:], boxes[other][2:])
                both = np.prod(np.clip(high - low + 1, 0, None))
                areas = [np.prod(boxes[number][2:] - boxes[number][:2] + 1) for number in (one, other)]
                if both / (sum(areas) - both) > iou:
                    break
        else:
            kept.append(one)
    return kept


def test_suppression_equals_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    corner = rng.random((120, 2)) * 60
    boxes = np.concatenate([corner, corner + rng.random((120, 2)) * 30], 1)
    scores, classes = rng.random(120), rng.integers(0, 2, 120)
    kept = non_maximum_suppression(torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes), 0.3)
    expected = naive_suppression(boxes, scores, classes, 0.3)
    assert 20 < len(expected) < 110
    assert kept.tolist() == expected
    plain = torch.cat([torch.tensor(boxes[:, :2]) + 1, torch.tensor(boxes[:, 2:])], 1)  # without the pixel more
    assert non_maximum_suppression(plain, torch.tensor(scores), torch.tensor(classes), 0.3).tolist() != expected


def test_nothing_above_the_threshold_is_nothing():
    for candidates in (0, 5):
        boxes, scores, classes = select(
            torch.ones(candidates, 4), torch.full((candidates,), -0.01), torch.zeros(candidates, 2)
        )
        assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,)
    assert len(select(torch.ones(1, 4), torch.zeros(1), torch.zeros(1, 1))[0]) == 1  # just at the threshold


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'paper' of the YOLO loss is not one of official, fixed"):
        yolo_loss(placed({}), IMAGES, BOXES, torch.zeros(3).long(), ANCHORS, 224, "paper")
