import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard, ModelCardData
from transformers import TimmWrapperConfig, TimmWrapperModel, pipeline

from tests.fixtures.tiny_models import tiny_image_processor, tiny_vision_config
from tests.trainers.downstream.frozen import assert_unchanged
from tests.trainers.downstream.image_tables import image_table, write_annotated_csv, write_annotated_dataset, write_csv
from trainers.downstream import evaluate
from trainers.downstream.encoders import load_encoder
from trainers.downstream.linear_probe import main as probe
from trainers.downstream.options import parse, parser
from trainers.downstream.results.model_index import add_to_card, eval_results


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Writes a tiny ResNet with a card and returns its folder."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    TimmWrapperModel(tiny_vision_config()).save_pretrained(folder)
    tiny_image_processor(32).to_json_file(folder / "medsyn_image_processor.json")
    ModelCard(f"---\n{ModelCardData(license='mit', model_name='tiny').to_yaml()}\n---\n\n# Tiny\n").save(
        folder / "README.md"
    )
    return folder


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_annotated_csv(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_annotated_dataset(tmp_path_factory.mktemp("dataset"), unannotated=2)


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    """Asserts that every encoder a command loads stays bit-identical."""
    watches = []

    def loaded(*args):
        found = load_encoder(*args)
        watches.append(assert_unchanged(found))
        watches[-1].__enter__()
        return found

    monkeypatch.setattr("trainers.downstream.encoders.load_encoder", loaded)
    yield watches
    for watch in watches:
        watch.__exit__(None, None, None)


def encoders(folder):
    return ["--encoder", f"ours={folder}", "--encoder", f"random=random:{folder}", "--resamples", "40"]


def test_probe_equals_evaluate_classify(encoder, csv, tmp_path, watched):
    common = [*encoders(encoder), "--dataset", str(csv), "--budget", "20", "100", "--seeds", "2"]
    common += ["--cache", str(tmp_path / "features")]
    assert evaluate.main([*common, "--task", "classify", "--out", str(tmp_path / "evaluate")]) == 0
    assert probe([*common, "--out", str(tmp_path / "probe")]) == 0
    one, other = (pd.read_parquet(tmp_path / name / "results.parquet") for name in ("evaluate", "probe"))
    pd.testing.assert_frame_equal(one, other)
    assert len(watched) == 4
    differences = one[one["metric"] == "macro_auroc_difference"]
    assert differences["p_value"].between(0, 1).all() and len(differences) == 2
    assert "have no label and count as negative for all" in (tmp_path / "probe" / "results.md").read_text()


def test_a_trained_head_of_exclusive_classes_is_saved_as_a_stock_classifier(tmp_path, capsys):
    path = write_csv(tmp_path / "images")
    table = pd.read_csv(path, keep_default_na=False)
    table["labels"] = np.where(table["labels"].str.contains("Cardiomegaly"), "Cardiomegaly", "Normal")
    table.to_csv(path, index=False)
    common = ["--task", "classify", "--exclusive", "--encoder", "random:test_resnet", "--image-size", "32"]
    common += ["--dataset", str(path)]
    common += ["--out", str(tmp_path / "out"), "--budget", "100", "--resamples", "40"]
    training = ["--head", "trained", "--epochs", "60", "--patience", "30", "--seeds", "1"]
    training += ["--learning-rate", "0.05", "--save-models"]
    assert evaluate.main([*common, *training]) == 0
    rows = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["metric", "seed"])["value"]
    assert rows["accuracy", "0"] > 0.7 and "accuracy" == pd.read_csv(tmp_path / "out" / "results.csv")["metric"][0]
    (folder,) = (tmp_path / "out" / "models").iterdir()
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    test = table[table["split"] == "test"]
    said = [classify(str(path.parent / name))[0]["label"] for name in test["file"]]
    assert np.mean(np.array(said) == test["labels"]) == pytest.approx(rows["accuracy", "0"], abs=1e-5)
    table.loc[0, "labels"] = "Cardiomegaly|Normal"
    table.to_csv(path, index=False)
    assert evaluate.main(common) == 1
    assert "1 of 110 images do not have exactly one of the labels" in capsys.readouterr().err


def test_segmentation_measures_every_encoder_and_updates_its_card(encoder, dataset, tmp_path):
    out = tmp_path / "out"
    arguments = [*encoders(encoder), "--task", "segment", "--dataset", str(dataset), "--out", str(out)]
    arguments += ["--budget", "30", "100", "--seeds", "2", "--findings", "Cardiomegaly", "--epochs", "2"]
    arguments += ["--decoder-channels", "16", "8", "8", "4", "4", "--learning-rate", "0.01", "--update-cards"]
    assert evaluate.main([*arguments, "--save-models"]) == 0
    rows = pd.read_parquet(out / "results.parquet")
    assert rows["metric"][0] == "dice_per_image" and set(rows["task"]) == {"segmentation"}
    assert {"dice_dataset", "dice_official", "dice_per_image_spread", "dice_per_image_difference"} <= set(
        rows["metric"]
    )
    main = rows[rows["metric"] == "dice_per_image"]
    assert ((main["ci_low"] <= main["value"]) & (main["value"] <= main["ci_high"])).all()
    assert rows[rows["metric"] == "dice_per_image_difference"]["p_value"].between(0, 1).all()
    assert (rows["n"] == 28).all()  # two of the thirty are not annotated
    said = (out / "results.md").read_text()
    assert "left out 6 images: not annotated: train000" in said and "with Cardiomegaly: " in said
    assert len(json.loads((out / "results.json").read_text())["settings"]["left_out"]["not annotated"]) == 6
    assert len(list((out / "models").iterdir())) == 8  # a decoder's initial weights are random at 100 % too
    whole = main[(main["budget"] == 100) & (main["encoder"] == "ours") & (main["seed"] != "mean")]
    assert set(whole["seed"]) == {"0", "1"} and whole["value"].nunique() == 2
    found = ModelCard.load(encoder / "README.md").data.eval_results
    output = {result.metric_args["percent_of_training_patients"]: result.metric_value for result in found}
    mean = main[(main["encoder"] == "ours") & (main["seed"] == "mean")]
    assert output == dict(zip(mean["budget"], mean["value"], strict=True))  # to the last digit


def test_detection_measures_every_encoder(encoder, csv, tmp_path):
    out = tmp_path / "out"
    arguments = [*encoders(encoder), "--task", "detect", "--dataset", str(csv), "--out", str(out), "--budget", "100"]
    arguments += ["--annotated-column", "looked", "--epochs", "2", "--neck-width", "16", "--learning-rate", "0.01"]
    arguments += ["--preset", "official", "--seeds", "2"]  # detects boxes by chance from the start
    assert evaluate.main(arguments) == 0
    rows = pd.read_parquet(out / "results.parquet")
    assert rows["metric"][0] == "map_40_75" and set(rows["task"]) == {"detection"}
    assert {"map_50", "map_75", "map_official", "map_40_75_difference"} <= set(rows["metric"])
    main = rows[rows["metric"] == "map_40_75"]
    assert len(main) == 6 and main["value"].max() > 0
    assert ((main["ci_low"] <= main["value"]) & (main["value"] <= main["ci_high"])).all()
    shown = image_table().groupby("split")["labels"].agg(lambda labels: sum(map(bool, labels)))
    output = f"with a finding: {shown['train']} of 60 train images, {shown['validation']} of 20 validation images, "
    assert output in (out / "results.md").read_text()
    assert "| encoder | images (mAP) 100 % |" in (out / "tables.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "detect", "--findings", "Mass", "--dataset", "CSV"], "has no annotation of 'Mass'"),
        (["--task", "detect", "--budget", "1", "--findings", "Edema", "--annotated-column", "looked", "--seeds", "6",
          "--dataset", "CSV"], "samples (1 % with seed"),
        (["--task", "segment", "--mask-column", "boxes", "--dataset", "CSV"], "masks that"),
        (["--task", "segment", "--dataset", "CSV", "--epochs", "0", "--budget", "100"], "epochs 0 is not at least 1"),
        (["--task", "classify", "--update-cards", "--encoder", "FOLDER", "--dataset", "CSV"], "no model card"),
    ],
)  # fmt: skip
def test_failures_are_one_sentence_and_exit_1(arguments, message, csv, tmp_path, capsys):
    names = {"CSV": str(csv), "FOLDER": str(tmp_path)}
    arguments = [names.get(argument, argument) for argument in arguments]
    assert evaluate.main([*arguments, "--encoder", "random:test_resnet", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("medsyn evaluate: ") and message in error


@pytest.mark.parametrize(
    ("task", "option", "message"),
    [
        ("classify", "nowhere", "encoder 'nowhere' is neither a folder nor a timm model"),
        ("segment", "random:test_resnet", "encoder last: decoder_channels 8 8 8 8 are 4 widths"),
        ("detect", "COARSE", "and a detector needs 1/32, 1/16, 1/8"),
    ],
)
def test_an_unusable_encoder_is_refused_before_any_is_measured(
    task, option, message, csv, dataset, tmp_path, capsys, monkeypatch
):
    def measured(*args, **kwargs):
        raise AssertionError("an encoder was measured")

    for name in ("encoders.cached_features", "tasks.segmentation.train_segmenter", "tasks.detection_maps.FeatureMaps"):
        monkeypatch.setattr(f"trainers.downstream.{name}", measured)
    arguments = ["--task", task, "--dataset", str(dataset if task == "segment" else csv), "--image-size", "32"]
    arguments += ["--decoder-channels", "8", "8", "8", "8"] if task == "segment" else []
    if option == "COARSE":
        arguments_of = {**tiny_vision_config().model_args, "output_stride": 16}
        option = str(tmp_path / "coarse")
        TimmWrapperModel(TimmWrapperConfig(architecture="resnet18", model_args=arguments_of)).save_pretrained(option)
    first = "random:vit_tiny_patch16_224" if task == "segment" else "random:resnet10t"
    encoders = ["--encoder", f"first={first}", "--encoder", f"last={option}", "--budget", "100"]
    assert evaluate.main([*arguments, *encoders, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_labels_with_few_or_no_cases_in_the_test_split_are_noted(csv, tmp_path):
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    test = table["split"] == "test"
    table.loc[test, "labels"] = table.loc[test, "labels"].str.replace("Edema", "").str.strip("|")
    ill = table.index[test & table["labels"].str.contains("Cardiomegaly")]
    table.loc[ill, "patient_id"] = [f"ill{place % 3}" for place in range(len(ill))]
    table.to_csv(csv.parent / "lacking.csv", index=False)
    arguments = ["--task", "classify", "--dataset", str(csv.parent / "lacking.csv"), "--min-positives", "0"]
    arguments += ["--encoder", "random:test_resnet", "--image-size", "32", "--budget", "100", "--resamples", "10"]
    assert evaluate.main([*arguments, "--out", str(tmp_path)]) == 0
    output = (tmp_path / "results.md").read_text()
    assert "- Edema has no positives in test: not part of macro AUROC" in output
    assert "- Cardiomegaly has positives of only 3 patients in test: its interval is unreliable" in output
    assert "Edema has positives of" not in output


def test_a_split_without_a_finding_is_refused(csv, tmp_path, capsys):
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    table.loc[table["split"] == "test", "boxes"] = ""
    table.to_csv(csv.parent / "none.csv", index=False)
    arguments = ["--task", "detect", "--dataset", str(csv.parent / "none.csv"), "--annotated-column", "looked"]
    assert evaluate.main([*arguments, "--encoder", "random:test_resnet", "--out", str(tmp_path)]) == 1
    assert "no image of test shows a finding (" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_a_leaking_split_is_refused_or_its_leaks_are_in_the_results(task, encoder, csv, tmp_path, capsys):
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    again = table[table["split"] == "train"].iloc[:3].assign(split="test")  # of two patients
    leaking = csv.parent / "leaking.csv"
    pd.concat([table, again]).to_csv(leaking, index=False)
    folder = shutil.copytree(encoder, tmp_path / "tiny")
    card = folder / "README.md"
    ModelCard("---\nmodel_name: tiny\n---\n\n# Tiny\n").save(card)
    arguments = ["--task", task, "--dataset", str(leaking), "--encoder", str(folder), "--budget", "100"]
    arguments += ["--resamples", "20", "--out", str(tmp_path / "out"), "--update-cards"]
    arguments += (
        ["--epochs", "1", "--seeds", "1", "--neck-width", "16", "--annotated-column", "looked"]
        if task == "detect"
        else []
    )
    assert evaluate.main(arguments) == 1
    assert "(2 patients cross splits)" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert evaluate.main([*arguments, "--allow-leaks"]) == 0
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["leaks"] == {"patients": 2, "images": 3, "test_patients": 2} and settings["allow_leaks"]
    output = "warning: the split leaks: 2 patients and 3 images are in more than one split"
    assert any(note.startswith(output) for note in settings["notes"]) and output in capsys.readouterr().out
    for name in ("results.csv", "tables.md", "tables.tex"):
        assert "leaking (split leaks)" in (tmp_path / "out" / name).read_text()
    entries = ModelCard.load(card).data.eval_results
    assert {entry.dataset_name for entry in entries} == {"leaking (split leaks)"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "segment", "--labels", "Edema"], "unrecognized arguments: --labels Edema"),
        (["--task", "segment", "--neck-width", "8"], "unrecognized arguments: --neck-width 8"),
        (["--task", "classify", "--findings", "Edema"], "unrecognized arguments: --findings Edema"),
        (["--task", "detect", "--augment"], "unrecognized arguments: --augment"),
        (["--task", "classify", "--epochs", "5"], "--epochs: only for --head trained, and the head is logistic"),
        (["--task=detect", "--config", "phantom"], "--config: only for a dataset"),
        ([], "argument TASK: invalid choice"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--encoder", "x", "--dataset", "images.csv", *arguments])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_every_option_of_probe_is_one_of_evaluate():
    tasks = next(action for action in parser("evaluate")._actions if action.dest == "task").choices
    one, other = (
        {option: action.help for action in of._actions for option in action.option_strings}
        for of in (parser("probe"), tasks["classify"])
    )
    assert one == other and set(tasks) == {"classify", "segment", "detect"}


@pytest.mark.parametrize("spelling", [["detect"], ["--task", "detect"], ["--task=detect"]])
def test_the_task_option_of_earlier_versions_equals_the_sub_command(spelling):
    given = ["--encoder", "a", "--dataset", "d", "--neck-width", "8"]
    assert parse([*spelling, *given]) == parse(["detect", *given])


def row(encoder, budget, value, metric="macro_auroc", dataset="nih", **more):
    base = {"task": "classification", "dataset": dataset, "split_hash": "abc", "encoder": encoder, "weights": "123"}
    return base | {"budget": budget, "seed": "mean", "metric": metric, "value": value, "n": 10, "n_train": 7} | more


def test_a_card_round_trips_the_same_numbers(tmp_path):
    rows = [row("a", budget, value, ci_low=0.1, ci_high=0.95) for budget, value in ((1, 1 / 3), (100, 2 / 3))]
    rows += [row("a", 100, 0.7, dataset="openi"), row("b", 100, 0.1), row("a", 1, 0.2, metric="auroc:Edema")]
    results = eval_results(rows, "a")
    ModelCard(f"---\n{ModelCardData(license='mit').to_yaml()}\n---\n\n# A\n").save(tmp_path / "README.md")
    add_to_card(tmp_path / "README.md", results)
    add_to_card(tmp_path / "README.md", eval_results([row("a", 100, 0.75, dataset="openi")], "a"))
    card = ModelCard.load(tmp_path / "README.md")
    output = {(found.dataset_name, found.metric_args["percent_of_training_patients"]): found.metric_value
            for found in card.data.eval_results}  # fmt: skip
    assert output == {("nih", 1): 1 / 3, ("nih", 100): 2 / 3, ("openi", 100): 0.75}
    (first,) = [found for found in card.data.eval_results if found.metric_value == 1 / 3]
    assert first.metric_args["confidence_interval_95"] == [0.1, 0.95] and first.dataset_revision == "abc"
    assert card.data.license == "mit"
    task = "frozen encoder, classification"
    assert card.text == (
        "\n# A\n\n## Results\n\n<!-- results: made anew from the metadata whenever results are added -->\n"
        "| data | task | metric | value | 95 % interval | test images |\n|---|---|---|---:|---|---:|\n"
        f"| nih, test | {task} | Macro AUROC, 1 % of the labels | 0.333 | 0.100 to 0.950 | 10 |\n"
        f"| nih, test | {task} | Macro AUROC, 100 % of the labels | 0.667 | 0.100 to 0.950 | 10 |\n"
        f"| openi, test | {task} | Macro AUROC, 100 % of the labels | 0.750 |  | 10 |\n"
        "<!-- end of results -->\n"
    )
    card.text = "\n# A\n\n## Limits\n\nSome.\n"
    card.save(tmp_path / "README.md")
    for _ in range(2):
        add_to_card(tmp_path / "README.md", results)
        text = ModelCard.load(tmp_path / "README.md").text
        assert text.count("## Results") == 1 and "\n\n\n" not in text
        assert text.endswith("<!-- end of results -->\n\n## Limits\n\nSome.\n")
    with pytest.raises(ValueError, match="no results for encoder 'c'; there are results for a, b"):
        eval_results(rows, "c")
    with pytest.raises(FileNotFoundError, match="no model card"):
        add_to_card(tmp_path / "gone.md", results)


@pytest.mark.parametrize("name", ["images.CSV", "images.csv.gz"])
def test_a_csv_is_told_by_its_suffix_in_any_case_and_compressed(tmp_path, name):
    path = write_csv(tmp_path)
    content = path.read_bytes()
    path.unlink()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    arguments = [
        "classify",
        "--encoder",
        "random:test_resnet",
        "--image-size",
        "32",
        "--dataset",
        str(tmp_path / name),
    ]
    assert evaluate.main([*arguments, "--budget", "100", "--resamples", "20", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "results.csv").is_file()


def test_probe_says_where_the_results_are(tmp_path, capsys):
    arguments = ["--encoder", "random:test_resnet", "--image-size", "32", "--dataset", str(write_csv(tmp_path))]
    assert probe([*arguments, "--budget", "100", "--resamples", "20", "--out", str(tmp_path / "out")]) == 0
    assert f"are in {tmp_path / 'out'}" in capsys.readouterr().out
