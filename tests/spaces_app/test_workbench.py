import threading
import time

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import VisionTextDualEncoderProcessor

from dataset_builder.findings import Finding
from dataset_builder.generators.phantom import PhantomGenerator
from dataset_builder.pipeline.rows import encode, row_features
from dataset_builder.reports.labeler import read_findings
from hub_medsyn.inference.embedding import embed_images, embed_texts
from hub_medsyn.inference.grounding import ground
from hub_medsyn.inference.prompts import DESCRIPTORS, FINDING_PROMPTS
from hub_medsyn.inference.zero_shot import ZeroShotClassifier
from spaces_app.guard.uploads import Refused, Upload
from spaces_app.index import ImageIndex
from spaces_app.loading import load_images, load_model, short_names
from spaces_app.workbench import MAX_SEED, Workbench, describe
from tests.fixtures.radiograph_trees import draw_image
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_tokenizer

IMPRESSIONS = (
    "Small left pleural effusion.",
    "No acute process.",
    "Small left pleural effusion.",
    "Mild edema.",
    None,
)


def row(place: int) -> dict:
    mask = np.zeros((40, 48), np.uint8)
    mask[5:15, 30:40] = 255
    return {
        "image": {"bytes": encode(draw_image(place), "png"), "path": None},
        "image_id": f"phantom-s{place}",
        "study_id": f"s{place}",
        "subject_id": f"p{place}",
        "impression": IMPRESSIONS[place],
        "labels": {"Edema": 1} if place == 3 else {},
        "finding_masks": [{"finding": "pleural effusion", "mask": {"bytes": encode(mask, "png"), "path": None}}],
        "boxes": [{"finding": "pleural effusion", "box": [30, 5, 40, 15]}],
    }


def write_dataset(folder, columns: list[str] | None = None):
    features = row_features(localizes=True)
    for split, places in (("train", (1, 2)), ("test", (0, 3, 4))):
        rows = Dataset.from_list([{**dict.fromkeys(features), **row(place)} for place in places], features=features)
        rows = rows.select_columns(columns) if columns else rows
        (folder / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models, one of them stored in half precision, and a dataset of five images."""
    root = tmp_path_factory.mktemp("page")
    processor = VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer())
    for name, model in (("gloria/checkpoint-7", tiny_gloria().half()), ("convirt", tiny_convirt())):
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    (root / "convirt" / "README.md").write_text("---\nlicense: mit\n---\n\n# A small model\n", encoding="utf-8")
    write_dataset(root / "medsyn-cxr")
    return root


@pytest.fixture(scope="module")
def bench(folders):
    return Workbench.start([folders / "gloria" / "checkpoint-7", folders / "convirt"], folders / "medsyn-cxr")


@pytest.fixture
def one():
    return Upload(draw_image(9), "your image")


def test_models_are_loaded_in_single_precision_and_named_after_their_folders(bench):
    assert list(bench.models) == ["gloria", "convirt"]
    assert [model.grounds for model in bench.models.values()] == [True, False]
    for model in bench.models.values():
        assert model.model.dtype == torch.float32 and not model.model.training
    assert bench.models["convirt"].card == "# A small model\n" and bench.models["gloria"].card == ""
    assert bench.models["convirt"].about.startswith(
        "ConVIRT, image encoder resnet18, 0.1 million weights, sees images of 32"
    )
    assert torch.get_num_threads() == 1


def test_samples_are_the_dataset_with_unseen_images_first(bench):
    assert [sample.id for sample in bench.samples] == [f"phantom-s{place}" for place in (0, 3, 4, 1, 2)]
    first, edema, silent = bench.samples[:3]
    np.testing.assert_array_equal(edema.image.pixels, draw_image(3))
    assert (first.image.name, first.impression, silent.impression) == (first.id, IMPRESSIONS[0], "")
    assert edema.labels["Edema"] == 1 and first.boxes == [("pleural effusion", (30, 5, 40, 15))]
    ((name, mask),) = first.masks
    assert name == "pleural effusion" and mask.sum() == 100 and mask[5:15, 30:40].all()
    assert bench.sample(edema.id) is edema
    with pytest.raises(Refused, match="no such sample"):
        bench.sample("../../etc/passwd")


def test_no_more_of_a_dataset_is_read_than_is_asked_for(folders):
    assert load_images(folders / "medsyn-cxr", most=4)["image_id"] == [f"phantom-s{place}" for place in (0, 3, 4, 1)]


def test_readings_are_those_of_the_classifier(bench, one):
    findings = ["Edema", "Pneumothorax"]
    readings = bench.read(one, ["convirt", "gloria"], findings)
    assert [(reading.model, reading.finding) for reading in readings] == [
        (name, finding) for name in ("convirt", "gloria") for finding in findings
    ]
    for reading in readings:
        model = bench.models[reading.model]
        expected = ZeroShotClassifier(model.model, model.processor)(one.pixels).of(reading.finding)
        assert reading.score == pytest.approx(float(expected[0]), abs=1e-6)
    assert [reading.finding for reading in bench.read(one, ["gloria"])] == list(FINDING_PROMPTS)


def test_signs_come_with_the_most_visible_first(bench, one):
    signs = bench.explain(one, "convirt", "Edema")
    assert {sign for sign, _ in signs} == set(DESCRIPTORS["Edema"])
    scores = [score for _, score in signs]
    assert scores == sorted(scores, reverse=True) and 0 < min(scores) <= max(scores) < 1


def test_free_texts_are_ordered_by_each_model_on_its_own(bench, one):
    texts = ["left pleural effusion", "normal chest", "edema", "normal chest"]
    answers = bench.free_text(one, ["gloria", "convirt"], texts)
    assert list(answers) == ["gloria", "convirt"]
    for name, pairs in answers.items():
        model = bench.models[name]
        expected = ZeroShotClassifier(model.model, model.processor).free_text(one.pixels, texts[:3])[0]
        assert dict(pairs) == pytest.approx(dict(zip(texts[:3], expected.tolist(), strict=True)), abs=1e-5)
        assert pairs == sorted(pairs, key=lambda pair: -pair[1])


def test_where_is_grounding_and_models_without_regions_say_who_can(bench, one):
    gloria = bench.models["gloria"]
    np.testing.assert_allclose(
        bench.where(one, "gloria", " pleural effusion ").values,
        ground(gloria.model, gloria.processor, one.pixels, "pleural effusion").values,
        atol=1e-6,
    )
    with pytest.raises(Refused, match="convirt compares whole images .* gloria can"):
        bench.where(one, "convirt", "effusion")
    alone = Workbench([bench.models["convirt"]], bench.rows, {})
    with pytest.raises(Refused, match="none that is loaded here can"):
        alone.where(one, "convirt", "effusion")


def test_neighbours_are_images_of_the_dataset_and_first_rows_of_each_report(bench, one, monkeypatch):
    model = bench.models["convirt"]
    (own,) = embed_images(model.model, model.processor, [one.pixels])
    (said,) = embed_texts(model.model, model.processor, ["Mild edema."])
    away = torch.nn.functional.normalize(torch.randn(5, len(own), generator=torch.manual_seed(0)), dim=1)
    images = torch.stack([away[0], said, away[1], own, away[2]])
    index = ImageIndex(images, torch.stack([away[3], own, away[4]]), torch.tensor([0, 1, 3]))
    monkeypatch.setitem(bench.index, "convirt", index)
    (first, cosine), (second, less) = bench.nearest_images(one, "convirt", 2)
    assert first is bench.samples[3] and cosine == pytest.approx(1, abs=1e-5) and less < cosine
    assert bench.nearest_images("Mild edema.", "convirt", 1)[0][0] is bench.samples[1]
    found = bench.nearest_reports(one, "convirt", 20)
    assert found[0][0] is bench.samples[1] and len(found) == 3


def test_the_index_of_a_model_is_built_once_over_all_images_and_distinct_reports(bench, one):
    bench.index.clear()
    found = bench.nearest_reports(one, "convirt", 20)
    built = bench.index["convirt"]
    assert sorted(sample.impression for sample, _ in found) == sorted({text for text in IMPRESSIONS if text})
    assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
    assert {sample.id for sample, _ in bench.nearest_images("Mild edema.", "convirt", 20)} == set(
        bench.rows["image_id"]
    )
    assert bench.index["convirt"] is built and built.images.shape[0] == 5


def test_a_dataset_without_reports_can_be_looked_at_and_not_searched(bench, tmp_path):
    write_dataset(tmp_path, ["image", "image_id", "study_id", "impression"])
    rows = load_images(tmp_path)
    silent = rows.map(lambda _: {"impression": None}, load_from_cache_file=False)
    other = Workbench([bench.models["convirt"]], silent, {})
    assert other.samples[0].labels == {} and other.samples[0].masks == []
    with pytest.raises(Refused, match="no reports"):
        other.nearest_images("edema", "convirt")


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda bench, one: bench.read(one, []), "No model is chosen"),
        (lambda bench, one: bench.read(one, ["gpt"]), "no such model; pick one of gloria, convirt"),
        (lambda bench, one: bench.read(one, [{}]), "no such model"),
        (lambda bench, one: bench.read(one, ["convirt"], ["<b>Edema"]), "no such finding"),
        (lambda bench, one: bench.read(one, ["convirt"], [["Edema"]]), "no such finding"),
        (lambda bench, one: bench.explain(one, "convirt", "Gout"), "no such finding"),
        (lambda bench, one: bench.free_text(one, ["convirt"], []), "0 texts; give 1 to 16"),
        (lambda bench, one: bench.free_text(one, ["convirt"], [f"mass {k}" for k in range(17)]), "17 texts"),
        (lambda bench, one: bench.free_text(one, ["convirt"], ["edema", " "]), "prompt is empty"),
        (lambda bench, one: bench.free_text(one, ["convirt"], ["edema " * 63]), "65 tokens .* convirt reads 64"),
        (lambda bench, one: bench.free_text(one, ["convirt"], ["日本語 ♥"]), "knows none of these words"),
        (lambda bench, one: bench.where(one, "gloria", "edema " * 100), "102 tokens"),
        (lambda bench, one: bench.where(one, "gloria", "- , ."), "holds no word"),
        (lambda bench, one: bench.where(one, "gloria", "x" * 10**6), "1,000,000 characters"),
        (lambda bench, one: bench.nearest_images("", "gloria"), "report is empty"),
        (lambda bench, one: bench.nearest_images("edema", "gloria", 0), "whole number from 1 to 20"),
        (lambda bench, one: bench.nearest_images("edema", "gloria", 10**9), "whole number from 1 to 20"),
        (lambda bench, one: bench.nearest_reports(one, "gloria", float("nan")), "whole number from 1 to 20"),
        (lambda bench, one: bench.make("edema", "dall-e"), "no such generator; pick one of phantom"),
        (lambda bench, one: bench.make("edema", number=5), "number of images .* from 1 to 4"),
        (lambda bench, one: bench.make("edema", number=1.5), "number of images"),
        (lambda bench, one: bench.make("edema", number=True), "number of images"),
        (lambda bench, one: bench.make("edema", seed=-1), "The seed has to be"),
        (lambda bench, one: bench.make("edema", seed=float("inf")), "The seed has to be"),
        (lambda bench, one: bench.make("edema", seed="7"), "The seed has to be"),
        (lambda bench, one: bench.make("edema", seed=MAX_SEED, number=2), "seed .* to 2147483646"),
        (lambda bench, one: bench.make("e" * 3000), "3,000 characters"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(bench, one, call, word):
    with pytest.raises(Refused, match=word) as refusal:
        call(bench, one)
    assert str(refusal.value)[0].isupper() or str(refusal.value).startswith(("convirt", "gloria"))
    assert str(refusal.value).endswith(".") and len(str(refusal.value)) < 200


def test_the_phantom_is_told_what_was_understood_and_what_cannot_be_seen(bench):
    text, printed = "Moderate left pleural effusion. No pneumothorax. Possible rib fracture.", []
    made = bench.make(text, number=2, seed=5, progress=lambda *at: printed.append(at))
    assert [image.seed for image in made] == [5, 6] and not np.array_equal(made[0].image.pixels, made[1].image.pixels)
    for one in made:
        assert one.understood == ["moderate left pleural effusion", "no pneumothorax", "possible fracture"]
        assert one.occult == ["possible fracture"] and one.view in ("PA", "AP")
        assert one.labels["Pleural Effusion"] == 1 and one.labels["Pneumothorax"] == 0
        (name, mask), (boxed, box) = one.masks[0], one.boxes[0]
        assert name == boxed == "pleural effusion" and mask.shape == one.image.pixels.shape and box[0] > 128
    expected = PhantomGenerator(256).render(read_findings(text), 6)
    np.testing.assert_array_equal(made[1].image.pixels, expected.image)
    assert printed == [(1, 2, "image 1 of 2, step 1 of 1"), (2, 2, "image 2 of 2, step 1 of 1")]


def test_words_without_a_finding_give_a_normal_chest(bench):
    (made,) = bench.make("<script>alert(1)</script> xyzzy", seed=1)
    assert made.understood == [] and made.masks == [] and made.occult == []


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding("pleural effusion", "left", severity="moderate"), "moderate left pleural effusion"),
        (Finding("nodule", "right", "upper"), "right nodule, upper zone"),
        (Finding("pneumothorax", certainty=0), "no pneumothorax"),
        (Finding("pneumonia", "bilateral", "lower", certainty=-1), "possible bilateral pneumonia, lower zone"),
    ],
)
def test_findings_in_words(finding, words):
    assert describe(finding) == words


def test_diffusion_pipelines_tell_their_steps_and_refuse_what_they_would_cut(folders, bench, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from dataset_builder.generators.diffusion import DiffusionGenerator
    from spaces_app.loading import STEPS, load_pipeline
    from tests.fixtures.tiny_diffusion import Spoiled, save_tiny_pipeline

    drawer = load_pipeline(str(save_tiny_pipeline(tmp_path / "RoentGen mini")), "cpu")
    assert (drawer.name, drawer.height, drawer.width, drawer.num_inference_steps) == ("roentgen", 64, 64, STEPS)
    drawer.num_inference_steps = 3
    other = Workbench([bench.models["convirt"]], bench.rows, {drawer.name: drawer})
    printed = []
    made = other.make("Small left effusion.", "roentgen", number=2, seed=3, progress=lambda *at: printed.append(at))
    assert [at[:2] for at in printed] == [(step, 6) for step in range(1, 7)]
    assert printed[4][2] == "image 2 of 2, step 2 of 3"
    assert [one.seed for one in made] == [3, 4] and made[0].image.pixels.shape == (64, 64)
    assert made[0].masks == [] and made[0].labels is None
    (again,) = other.make("Small left effusion.", "roentgen", seed=4)
    np.testing.assert_array_equal(again.image.pixels, made[1].image.pixels)
    with pytest.raises(Refused, match="longer than roentgen reads"):
        other.make("small left effusion " * 10, "roentgen")

    def blank(output):
        output.images[:] = 0.5
        return output

    Spoiled(monkeypatch, blank)
    with pytest.raises(Refused, match="roentgen could not make this image") as refusal:
        other.make("Edema.", "roentgen")
    assert "--" not in str(refusal.value)
    assert isinstance(drawer, DiffusionGenerator)


def test_a_model_answers_one_call_at_a_time_and_the_same_as_alone(bench, monkeypatch):
    images = [Upload(draw_image(place), "your image") for place in range(6)]
    expected = [[reading.score for reading in bench.read(one, ["convirt"])] for one in images]
    model, inside, most = bench.models["convirt"], [], []
    original = model.model.encode_images

    def counted(pixels):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        features = original(pixels)
        inside.pop()
        return features

    monkeypatch.setattr(model.model, "encode_images", counted)
    answers = [None] * len(images)

    def ask(place):
        answers[place] = [reading.score for reading in bench.read(images[place], ["convirt"])]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected
    assert len(most) == len(images) and max(most) == 1


def test_warming_up_leaves_nothing_to_build(bench):
    bench.index.clear()
    bench.warm_up()
    assert set(bench.index) == set(bench.models)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["org/mgca-small", "org/convirt-small"], ["mgca-small", "convirt-small"]),
        (["a/model", "b/model"], ["a/model", "b/model"]),
        (["runs/gloria/checkpoint-12", "runs/mgca/checkpoint"], ["gloria", "mgca"]),
    ],
)
def test_short_names_differ(paths, names):
    assert short_names(paths) == dict(zip(names, paths, strict=True))


def test_names_that_cannot_be_told_apart_are_an_error():
    with pytest.raises(ValueError, match="two models are called a/model"):
        short_names(["x/a/model", "y/a/model"])


def test_what_is_no_model_or_no_dataset_is_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model folder .*nowhere"):
        load_model(tmp_path / "nowhere", "x")
    tiny_convirt().text_model.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert is a bert; name a ConVIRT, GLoRIA or MGCA"):
        load_model(tmp_path / "bert", "x")
    with pytest.raises(ValueError, match="has no column impression"):
        load_images(write_dataset(tmp_path / "bare", ["image", "image_id"]))
