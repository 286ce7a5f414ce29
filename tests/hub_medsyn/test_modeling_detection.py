"""The detector as a model: its maps, its frozen encoder, its boxes there and back, and what it refuses."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForObjectDetection, TimmWrapperConfig, TimmWrapperModel, pipeline

from hub_medsyn import (
    DetectionOutput,
    MedSynDetectionConfig,
    MedSynDetectionImageProcessor,
    MedSynForObjectDetection,
)
from hub_medsyn.modeling_detection import YoloHead, detection_stages
from tests.fixtures.tiny_models import tiny_convirt, tiny_vision_config

KINDS = ("resnet", "resnet50", "vit", "swin", "convnext", "mobilenet")


def tiny_detector(kind="resnet", seed=0, **settings) -> MedSynForObjectDetection:
    side = 32 if kind == "vit" else 64
    config = MedSynDetectionConfig(
        vision_config=tiny_vision_config(kind), **{"image_size": side, "neck_width": 16, **settings}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MedSynForObjectDetection(config)


def pixels(model, images=2, seed=0):
    side = model.config.image_size
    return torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(seed))


def one_box_and_none():
    return [
        {"boxes": torch.tensor([[0.5, 0.4, 0.3, 0.2]]), "class_labels": torch.tensor([0])},
        {"boxes": torch.zeros(0, 4), "class_labels": torch.zeros(0, dtype=torch.long)},
    ]


def test_maps_and_widths_are_those_of_yolov3_on_a_resnet50():
    with torch.device("meta"):
        encoder = timm.create_model("resnet50", num_classes=0)
        stages, channels = detection_stages(encoder)
        shapes = encoder.forward_intermediates(torch.zeros(1, 3, 224, 224), indices=sorted(stages))[1]
        head = YoloHead(channels, 512, 3, 1)
        outputs = head([torch.zeros(2, width, side, side) for width, side in zip(channels, (7, 14, 28), strict=True)])
    assert [tuple(one.shape[1:]) for one in shapes] == [(512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    assert channels == [2048, 1024, 512]
    assert [tuple(one.shape) for one in outputs] == [(2, 18, 7, 7), (2, 18, 14, 14), (2, 18, 28, 28)]
    convolutions = [
        [(one.in_channels, one.out_channels, one.kernel_size[0]) for one in part.modules() if hasattr(one, "stride")]
        for part in (*head.scales, head.laterals)
    ]
    alternating = [[(512, 1024, 3), (1024, 512, 1)], [(256, 512, 3), (512, 256, 1)], [(128, 256, 3), (256, 128, 1)]]
    for found, pair, first, last in zip(
        convolutions, alternating, [(2048, 512, 1), (1280, 256, 1), (640, 128, 1)], (1024, 512, 256), strict=False
    ):
        assert found == [first, *pair, *pair, pair[0], (last, 18, 1)]
    assert convolutions[3] == [(512, 256, 1), (256, 128, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_moves_the_head_alone_and_the_model_is_saved_bit_for_bit(kind, tmp_path):
    model = tiny_detector(kind).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not any(module.training for module in model.vision_model.modules())
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained and not any(name.startswith("vision_model") for name in trained)
    output = model(pixels(model), labels=one_box_and_none())
    output.loss.backward()
    torch.optim.SGD(trained.values(), lr=0.1).step()
    after = model.state_dict()
    for name in before:
        if name.startswith("vision_model") or name == "map_scale":
            assert torch.equal(after[name], before[name]), name
        else:
            assert not torch.equal(after[name], before[name]), name

    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == after.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, after[name]), name
    assert not any(parameter.requires_grad for parameter in loaded.vision_model.parameters())
    assert all(parameter.requires_grad for parameter in loaded.head.parameters())
    with torch.no_grad():
        one, other = model(pixels(model)), loaded(feature_maps=loaded.encode_maps(pixels(model)))
    for name in ("logits", "objectness", "pred_boxes"):
        assert torch.equal(one[name], other[name]), name
    side = model.config.image_size
    cells = sum((side // stride) ** 2 for stride in ((4, 8, 16) if kind == "vit" else (8, 16, 32)))
    assert one.logits.shape == (2, 3 * cells, 1) and one.pred_boxes.shape == (2, 3 * cells, 4)


def test_the_encoder_stays_frozen_whatever_is_asked():
    model = tiny_detector()
    model.vision_model.requires_grad_(True)
    model.train()
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())
    maps = model.encode_maps(pixels(model).requires_grad_())
    assert not any(one.requires_grad for one in maps)


def test_map_scale_takes_out_the_unit_of_the_maps():
    model = tiny_detector()
    maps = model.encode_maps(pixels(model))
    with torch.no_grad():
        expected = model(feature_maps=maps).objectness
        model.map_scale.copy_(torch.tensor([2.0, 0.5, 4.0]))
        scaled = tuple(one * scale for one, scale in zip(maps, model.map_scale, strict=True))
        assert torch.equal(model(feature_maps=scaled).objectness, expected)
        assert not torch.equal(model(feature_maps=maps).objectness, expected)


def test_a_new_head_finds_nothing_unless_official():
    shares = {}
    for preset in ("official", "fixed"):
        model = tiny_detector(preset=preset)
        with torch.no_grad():
            shares[preset] = (model(pixels(model)).objectness >= 0).float().mean().item()
    assert shares["fixed"] == 0 and 0.2 < shares["official"] < 0.8


@pytest.mark.parametrize("resize", ["pad", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(150, 100), (61, 97), (64, 64), (40, 30)])
def test_boxes_lie_where_the_processor_draws_them(resize, height, width):
    """A white rectangle on black: where it comes out on the square is where its box is said to be."""
    box = np.float32([[width * 0.3, height * 0.25, width * 0.8, height * 0.5]]).round()
    x0, y0, x1, y1 = box[0].astype(int)
    image = np.zeros((height, width), np.uint8)
    image[y0:y1, x0:x1] = 255
    processor = MedSynDetectionImageProcessor(size=64, resize=resize)
    square = processor(image, return_tensors="np")["pixel_values"][0, 0]  # (64, 64), -1 black, 1 white
    rows, columns = np.nonzero((square > 0).any(1))[0], np.nonzero((square > 0).any(0))[0]
    x, y, w, h = processor.boxes_to_square(box, height, width)[0] * 64
    drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose([x - w / 2, y - h / 2, x + w / 2, y + h / 2], drawn, atol=0.75)
    corners = np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
    np.testing.assert_allclose(processor.boxes_from_square(corners, height, width), box, atol=1e-3)
    whole = processor.boxes_from_square(np.array([[-50, -50, 200, 200]]), height, width)
    np.testing.assert_array_equal(whole, [[0, 0, width, height]])


def test_post_processing_maps_boxes_to_the_image():
    processor = MedSynDetectionImageProcessor(size=64)
    output = DetectionOutput(
        logits=torch.zeros(2, 3, 1),
        objectness=torch.tensor([[2.0, 1.0, -1.0], [-1.0, -1.0, -1.0]]),
        pred_boxes=torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.5, 0.5, 0.26, 0.5], [0.1, 0.1, 0.1, 0.1]]).expand(2, 3, 4),
    )
    first, second = processor.post_process_object_detection(output, target_sizes=[(100, 200), (64, 64)])
    # A square of 64 pixels shows 200 x 100 at 0.32, from row 16 on.
    np.testing.assert_allclose(first["boxes"], [[75, 0, 125, 100]], atol=1e-4)
    np.testing.assert_allclose(first["scores"], [torch.tensor(2.0).sigmoid()])
    assert second["boxes"].shape == (0, 4) and first["labels"].tolist() == [0]
    shares = processor.post_process_object_detection(output, threshold=0.2)[0]
    np.testing.assert_allclose(shares["boxes"], [[0.375, 0.25, 0.625, 0.75], [0.05, 0.05, 0.15, 0.15]], atol=1e-6)
    with pytest.raises(ValueError, match="1 target_sizes for 2 images"):
        processor.post_process_object_detection(output, target_sizes=[(1, 1)])


def test_a_saved_detector_is_an_object_detection_pipeline(tmp_path):
    model = tiny_detector(preset="official", id2label={0: "opacity"}, label2id={"opacity": 0})
    processor = MedSynDetectionImageProcessor(size=64, resize="stretch")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).resize == "stretch"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8))
    detections = pipeline("object-detection", model=str(tmp_path))(image, threshold=0.5)
    with torch.no_grad():
        output = model(**processor([image], return_tensors="pt"))
    expected = processor.post_process_object_detection(output, 0.5, [(90, 120)])[0]
    assert len(detections) == len(expected["boxes"]) > 1
    for found, box, score in zip(detections, expected["boxes"], expected["scores"], strict=True):
        assert found["label"] == "opacity"
        assert list(found["box"].values()) == box.int().tolist()
        np.testing.assert_allclose(found["score"], score.item(), rtol=1e-5)


def test_an_encoder_comes_from_a_checkpoint_or_as_a_module(tmp_path):
    checkpoint = tiny_convirt(seed=3)
    checkpoint.save_pretrained(tmp_path)
    model = MedSynForObjectDetection.from_encoder(tmp_path, image_size=64, neck_width=16)
    for name, value in checkpoint.vision_model.state_dict().items():
        assert torch.equal(model.vision_model.state_dict()[name], value), name
    module = TimmWrapperModel(tiny_vision_config()).timm_model
    shared = MedSynForObjectDetection.from_encoder(module, tiny_vision_config(), image_size=64, neck_width=16)
    assert shared.vision_model.timm_model is module
    with pytest.raises(ValueError, match="needs its vision_config"):
        MedSynForObjectDetection.from_encoder(module)
    with pytest.raises(ValueError, match="'no-such-net' is neither a folder"):
        MedSynForObjectDetection.from_encoder("no-such-net")


def test_what_does_not_fit_is_refused():
    model = tiny_detector()
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 32\) are not images of 64 x 64 pixels"):
        model(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="either pixel_values or feature_maps"):
        model()
    with pytest.raises(ValueError, match="1 labels for 2 images"):
        model(pixels(model), labels=one_box_and_none()[:1])
    labels = one_box_and_none()
    labels[0]["class_labels"] += 1
    with pytest.raises(ValueError, match=r"class_labels \[1\] are not all within 1"):
        model(pixels(model), labels=labels)
    coarse = TimmWrapperConfig(
        architecture="resnet18", model_args={**tiny_vision_config().model_args, "output_stride": 16}
    )
    with pytest.raises(ValueError, match="a detector needs 1/32, 1/16, 1/8"):
        MedSynForObjectDetection(MedSynDetectionConfig(vision_config=coarse, image_size=64))
    with pytest.raises(ValueError, match="neck_width 6 is not a multiple of 4"):
        MedSynDetectionConfig(neck_width=6)
    with pytest.raises(ValueError, match="preset 'paper'"):
        MedSynDetectionConfig(preset="paper")
    with pytest.raises(ValueError, match="are not three lists"):
        MedSynDetectionConfig(anchors=[[[1, 2]]])
    with pytest.raises(ValueError, match="resize 'crop'"):
        MedSynDetectionImageProcessor(resize="crop")
    with pytest.raises(ValueError, match="crop_size 32 would cut boxes off"):
        MedSynDetectionImageProcessor(size=64, crop_size=32)
