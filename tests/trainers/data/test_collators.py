"""Items and batches: what is drawn depends on seed, epoch and id alone, and what cannot be read is named."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hub_medsyn import MedSynImageProcessor
from tests.fixtures.damaged_metadata import damaged, turned
from tests.fixtures.tiny_models import tiny_image_processor, tiny_tokenizer
from tests.trainers.data.image_pairs import image_pairs, image_rows
from trainers.data.augmentation import augment, blur
from trainers.data.collators import PairCollator
from trainers.data.pairs import PairDataset


def test_batch():
    pairs = image_pairs(augmentation="none", text_sampling="full", repeats=1)
    collate = PairCollator(tiny_tokenizer(), pairs.processor, max_length=6)
    batch = collate([pairs[0], pairs[(3, 5)]])
    assert batch["return_loss"] is True and batch["ids"] == ["image000", "image005"]
    assert batch["pixel_values"].shape == (2, 3, 32, 32) and batch["pixel_values"].dtype == torch.float32
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 6)
    expected = pairs.processor([image_rows()[row]["image"] for row in (0, 5)], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected)


@pytest.mark.parametrize("kind", ["crop", "film"])
def test_draws_depend_on_seed_epoch_and_id_alone(kind):
    pairs = image_pairs(augmentation=kind, seed=4)
    reversed_rows = PairDataset(
        image_rows().select(range(23, -1, -1)),
        tiny_image_processor(),
        ["prompt"],
        augmentation=kind,
        text_sampling="sentence",
        seed=4,
    )
    np.random.seed(0)
    torch.manual_seed(0)
    first = pairs[(2, 7)]
    np.random.seed(1)
    torch.manual_seed(1)
    for other in (pairs[(2, 7)], reversed_rows[(2, 16)]):
        assert other["id"] == first["id"] and other["text"] == first["text"]
        np.testing.assert_array_equal(other["image"], first["image"])
    views = [pairs[(epoch, 7)]["image"] for epoch in range(4)] + [
        image_pairs(augmentation=kind, seed=5)[(2, 7)]["image"]
    ]
    assert len({view.tobytes() for view in views}) == 5
    assert len({pairs[(epoch, 7)]["text"] for epoch in range(8)}) == 2  # both sentences turn up


def test_uncached_images_equal_cached_ones():
    cached, uncached = image_pairs(), image_pairs(cache_gb=0.0)
    assert cached.cached is not None and uncached.cached is None
    np.testing.assert_array_equal(cached[(1, 3)]["image"], uncached[(1, 3)]["image"])


def test_centre_crop_without_augmentation():
    processor = MedSynImageProcessor(size=32, crop_size=28)
    item = image_pairs(processor=processor, augmentation="none")[0]
    expected = processor(image_rows()[0]["image"])["pixel_values"][0, 0] * 0.5 + 0.5
    np.testing.assert_allclose(item["image"] / 255, expected, atol=1e-6)


def test_augmentation_keeps_sides_apart_unless_flips_are_asked_for():
    square = np.zeros((36, 36), np.uint8)
    square[8:28, 4:14] = 200  # bright on the left of the picture
    for flip, expected in ((False, {True}), (True, {True, False})):
        views = [augment(square, 32, np.random.default_rng(seed), "image", flip) for seed in range(30)]
        assert all(view.shape == (32, 32) and 0 <= view.min() and view.max() <= 255 for view in views)
        assert {bool(view[:, :16].mean() > view[:, 16:].mean()) for view in views} == expected


def test_crop_keeps_most_of_the_image():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    for seed in range(20):
        row = augment(ramp, 64, np.random.default_rng(seed), "crop")[32]
        assert 0.8**0.5 - 0.03 <= (row[-1] - row[0]) / (ramp[32, -1] - ramp[32, 0]) <= 1.0
        assert (np.diff(row) > 0).all()


def test_blur_keeps_the_mean_and_flattens():
    image = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    blurred = blur(image, 1.0)
    assert blurred.shape == image.shape and blurred.std() < image.std() / 2
    torch.testing.assert_close(blurred.mean(), image.mean(), rtol=0.05, atol=0)
    torch.testing.assert_close(blur(image, 0.1), image)


def test_columns_are_joined_and_rows_without_text_left_out():
    rows = image_rows(6, repeats=0)
    pairs = PairDataset(rows, tiny_image_processor(), ["findings", "impression"])
    assert (
        pairs[1]["text"] == "lungs are clear. " + rows[1]["impression"] and pairs[0]["text"] == rows[0]["impression"]
    )
    only = PairDataset(rows, tiny_image_processor(), ["findings"])
    assert len(only) == 3 and only.rows_without_text == 3 and only.ids == ["image001", "image003", "image005"]
    np.testing.assert_array_equal(only[0]["image"], pairs[1]["image"])


@pytest.mark.parametrize("rule", ["gloria", "mgca"])
def test_a_cleaning_rule_holds_for_whole_texts_and_leaves_out_what_it_empties(rule):
    texts = ["Normal.", "1. Clear lungs.  2.5 cm nodule", "clear lungs. 5 CM NODULE", "No edema"]
    rows = image_rows(4).remove_columns("prompt").add_column("prompt", texts)
    pairs = PairDataset(rows, tiny_image_processor(), ["prompt"], sentence_rule=rule)
    kept = {"gloria": ["image001", "image002", "image003"], "mgca": ["image001", "image002"]}[
        rule
    ]  # of three words or more
    assert pairs.ids == kept and pairs.rows_without_text == 4 - len(kept)
    assert pairs[0]["text"] == pairs[1]["text"] == "clear lungs 5 cm nodule"
    assert pairs.distinct_keys()[0] == pairs.distinct_keys()[1]
    sentences = PairDataset(rows, tiny_image_processor(), ["prompt"], sentence_rule=rule, text_sampling="sentence")
    assert {sentences[(epoch, 0)]["text"] for epoch in range(8)} == {"clear lungs", "5 cm nodule"}
    whole = PairDataset(rows, tiny_image_processor(), ["prompt"], sentence_rule="convirt")
    assert whole[0]["text"] == "Normal." and whole.rows_without_text == 0


def test_texts_that_differ_in_case_and_space_alone_are_equal():
    rows = datasets.Dataset.from_dict(
        {"image": list(image_rows(2)["image"]), "image_id": ["a", "b"], "prompt": ["No  a", "no A"]}
    )
    keys = PairDataset(rows, tiny_image_processor(), ["prompt"]).distinct_keys()
    assert keys[0] == keys[1]


def test_bad_datasets_are_refused():
    rows = image_rows(3)
    with pytest.raises(ValueError, match="no column caption; it has image, .*--text_columns"):
        PairDataset(rows, tiny_image_processor(), ["caption"])
    empty = rows.map(lambda row: {"prompt": " "})
    with pytest.raises(ValueError, match="none of the 3 rows has text in prompt"):
        PairDataset(empty, tiny_image_processor(), ["prompt"])
    with pytest.raises(ValueError, match="none of the 0 rows"):
        PairDataset(rows.select([]), tiny_image_processor(), ["prompt"])


@pytest.mark.parametrize("content", [b"not an image", b""])
def test_an_image_that_cannot_be_read_is_named(content):
    rows = image_rows(3).cast_column("image", datasets.Image(decode=False))
    broken = [{"bytes": content, "path": None} if row == 1 else rows[row]["image"] for row in range(3)]
    rows = rows.remove_columns("image").add_column("image", broken).cast_column("image", datasets.Image())
    with pytest.raises(ValueError, match="the image image001 cannot be read"):
        PairDataset(rows, tiny_image_processor(), ["prompt"])
    pairs = PairDataset(rows, tiny_image_processor(), ["prompt"], cache_gb=0.0)
    assert pairs[0]["id"] == "image000"
    with pytest.raises(ValueError, match="the image image001 cannot be read"):
        pairs[1]


def test_an_image_with_nan_pixels_is_named(tmp_path):
    rows = image_rows(3).cast_column("image", datasets.Image(decode=False))
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "nan.tif")
    images = [{"bytes": (tmp_path / "nan.tif").read_bytes(), "path": None}, *rows[1:]["image"]]
    rows = rows.remove_columns("image").add_column("image", images).cast_column("image", datasets.Image())
    with pytest.raises(ValueError, match="the image image000 cannot be read: an image of shape .* holds NaN"):
        PairDataset(rows, tiny_image_processor(), ["prompt"])


def test_an_empty_text_is_refused_by_its_id():
    collate = PairCollator(tiny_tokenizer(), tiny_image_processor(), max_length=8)
    item = {"image": np.zeros((32, 32), np.float32), "text": "edema", "id": "image000"}
    with pytest.raises(ValueError, match="image001, image002 have no text to learn from; leave these pairs out"):
        collate([item, {**item, "text": "", "id": "image001"}, {**item, "text": " \n", "id": "image002"}])


def test_texts_over_the_limit_are_cut_and_that_is_said_once(caplog):
    collate = PairCollator(tiny_tokenizer(), tiny_image_processor(), max_length=8)

    def batch(*lengths):
        image = np.zeros((32, 32), np.float32)
        return [
            {"image": image, "text": "edema " * length, "id": f"image{number}"}
            for number, length in enumerate(lengths)
        ]

    with caplog.at_level("WARNING"):
        assert collate(batch(3, 6))["input_ids"].shape == (2, 8)  # as long as may be, and whole
        assert not caplog.records
        assert collate(batch(3, 7, 60))["input_ids"].shape == (3, 8)
        collate(batch(60, 60))
    assert [record.getMessage() for record in caplog.records] == [
        "texts of more than 8 tokens are cut there, 2 of 3 in this batch (image1, image2); this is said once"
    ]
    assert "edema" not in caplog.text


def test_pairs_are_upright_and_damaged_metadata_are_passed_over():
    wide = np.random.default_rng(0).integers(0, 256, (60, 96), dtype=np.uint8)
    files = {"turned": turned(wide, 6, "PNG"), **damaged(wide)}
    features = datasets.Features(
        {"image_id": datasets.Value("string"), "prompt": datasets.Value("string"), "image": datasets.Image()}
    )
    rows = datasets.Dataset.from_dict(
        {
            "image_id": list(files),
            "prompt": [f"text {number}" for number in range(len(files))],
            "image": [{"bytes": content, "path": None} for content in files.values()],
        },
        features=features,
    )
    processor = tiny_image_processor()
    pairs = PairDataset(rows, processor, ["prompt"])
    expected = processor.resize_and_pad(np.rot90(wide, 3))
    np.testing.assert_array_equal(pairs[0]["image"], expected)
    for row, name in enumerate(files):
        if name != "turned":
            assert np.abs(pairs[row]["image"] - processor.resize_and_pad(wide)).mean() < 5, name


def test_spellings_of_nothing_are_no_text():
    rows = image_rows(6, repeats=0)
    rows = rows.remove_columns("findings").add_column("findings", ["nan", "None", "N/A", "<NA>", "null", "Clear."])
    pairs = PairDataset(rows, tiny_image_processor(), ["findings"])
    assert pairs.texts == ["Clear."] and pairs.rows_without_text == 5


def test_a_column_that_is_no_text_is_refused_by_its_name():
    rows = image_rows(3, repeats=0).add_column("labels", [1, 2, 3])
    with pytest.raises(ValueError, match="column labels holds no text but .*--text_columns"):
        PairDataset(rows, tiny_image_processor(), ["labels"])


def test_near_duplicates_have_one_key():
    rows = image_rows(3, repeats=0).remove_columns("impression")
    texts = ["No change since 3/4/2019.", "NO CHANGE  since ___", "No change of 3 mm."]
    pairs = PairDataset(rows.add_column("impression", texts), tiny_image_processor(), ["impression"])
    first, second, third = pairs.distinct_keys()
    assert first == second != third


@pytest.mark.parametrize("rule", ["fixed", "convirt", "gloria", "mgca"])
def test_near_duplicates_have_one_key_under_every_rule(rule):
    texts = ["Clear lungs since 3/4/2019.", "CLEAR LUNGS  since 12.11.2018", "clear lungs since ___", "A 3 mm nodule."]
    rows = image_rows(4, repeats=0).remove_columns("impression").add_column("impression", texts)
    keys = PairDataset(rows, tiny_image_processor(), ["impression"], sentence_rule=rule).distinct_keys()
    assert len(set(keys[:3])) == 1 and keys[3] != keys[0]


def test_texts_that_are_fed_alike_have_one_key():
    texts = ["Nodule of 2.5 cm.", "Nodule of 3.5 cm."]  # gloria cuts at the point and drops what stands before it
    rows = image_rows(2, repeats=0).remove_columns("impression").add_column("impression", texts)
    for rule, distinct in (("gloria", 1), ("fixed", 2)):
        pairs = PairDataset(rows, tiny_image_processor(), ["impression"], sentence_rule=rule)
        assert len({pair["text"] for pair in pairs}) == len(set(pairs.distinct_keys())) == distinct


def test_without_near_duplicates_the_keys_and_so_the_batches_are_those_of_earlier_releases():
    pairs = image_pairs(24, repeats=6)
    assert pairs.distinct_keys() == [" ".join(text.lower().split()) for text in pairs.texts]
