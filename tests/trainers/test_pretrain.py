"""The command end to end: what it leaves, how presets and options meet, resume, two processes, and its refusals."""

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from transformers import AutoModel, AutoProcessor, BertModel

from hub_medsyn.checkpoints.remote_code import add_remote_code
from medsyn.cli import main as medsyn_main
from medsyn.files import only_writer
from tests.fixtures.cards import check_card
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_mgca, tiny_text_config, tiny_tokenizer
from tests.trainers.data.image_pairs import image_rows
from trainers.downstream.linear_probe import parser as probe_parser
from trainers.pretrain import main, parse
from trainers.training_card import hub_revision, licence_doubts, name_of, read_origin

REPOSITORY = Path(__file__).resolve().parents[2]

PAIRS, BATCHES = 10, "3 to 4"  # of the validation split, in batches of at most 4 different reports
CHANCE = (4 * math.log(4) + 2 * 3 * math.log(3)) / PAIRS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "medsyn-cxr"
    (folder / "data").mkdir(parents=True)
    image_rows(24).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    image_rows(10, repeats=2).to_parquet(folder / "data" / "validation-00000-of-00001.parquet")
    (folder / "manifest.json").write_text(manifest())
    return folder


def manifest(generator="phantom", text_policy="public", sources=("grammar",)) -> str:
    """That of a dataset with one config, as far as the card reads it."""
    settings = {"generator": {"name": generator, "generator": generator}, "text_policy": text_policy}
    entry = {"settings": settings, "reports": {"sources": list(sources)}}
    return json.dumps({"format": "medsyn-cxr", "text_policy": text_policy, "configs": {generator: entry}})


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    BertModel(tiny_text_config(), add_pooling_layer=False).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def options(dataset, text_encoder, out, *more) -> list[str]:
    command = f"--dataset {dataset} --output_dir {out} --image_encoder random:resnet10t --text_encoder {text_encoder}"
    command += " --image_size 32 --projection_dim 16 --per_device_train_batch_size 4 --per_device_eval_batch_size 4"
    command += " --num_train_epochs 2 --logging_steps 1 --use_cpu --disable_tqdm true"
    return [*command.split(), *more]


@pytest.fixture(scope="module")
def trained(dataset, text_encoder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "convirt"
    assert main(options(dataset, text_encoder, out)) == 0
    return out


def test_what_is_left(trained, dataset, text_encoder):
    names = {path.name for path in trained.iterdir()}
    left = {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "README.md"}
    assert left | {"training_curve.png", "trainer_state.json"} <= names
    assert not [path for path in trained.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
    said = "".join((trained / name).read_text() for name in left if name != "model.safetensors")
    assert str(dataset.parent) not in said and str(text_encoder) not in said
    assert (trained / "training_curve.png").stat().st_size > 1000
    model, processor = AutoModel.from_pretrained(trained), AutoProcessor.from_pretrained(trained)
    images = list(image_rows(3)["image"])
    inputs = processor(text=["no effusion", "edema"], images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).logits_per_image.shape == (3, 2)
    assert processor.image_processor.image_mean == 0.5  # random weights have no statistics of their own


def test_card_tells_the_run(trained, dataset):
    card = (trained / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["pipeline_tag"] == "zero-shot-image-classification"
    assert "datasets" not in metadata, "a folder's name would be a dead link on the Hub"
    assert "| dataset | `medsyn-cxr`, split `train` |" in card
    metric = metadata["model-index"][0]["results"][0]["metrics"][0]
    assert float(re.search(r"validation loss (\d+\.\d+)", card)[1]) == pytest.approx(metric["value"], abs=1e-3)
    # Both are rounded on their own, to 3 and to 4 places.
    part = float(re.search(r"of which (\d+\.\d+) lies between", card)[1])
    assert part == pytest.approx(metric["value"], abs=1e-3)
    sha = hashlib.sha256((dataset / "manifest.json").read_bytes()).hexdigest()
    for said in (
        sha,
        "preset `fixed`",
        "`projection_dim=16`",
        "24 pairs",
        "| `learning_rate` | 0.0001 |",
        "never mirrored",
        f"on {PAIRS} pairs in batches of {BATCHES}, of which",
        f"whole images and whole reports, where the chance loss is {CHANCE:.3f}",
        "small turns",
    ):
        assert said in card
    assert "effusion." not in card.split("## Model")[1]


def test_the_card_is_one_that_the_hub_takes_and_says_where_words_and_numbers_come_from(trained, dataset):
    card = ModelCard.load(trained / "README.md")
    check_card(card, "model")
    sha = hashlib.sha256((dataset / "manifest.json").read_bytes()).hexdigest()
    assert card.data.medsyn == {"text_policy": "public", "vocabulary_from_reports": False, "manifest_sha256": sha}
    (result,) = card.data.eval_results
    state = json.loads((trained / "trainer_state.json").read_text())
    evaluated = [entry for entry in state["log_history"] if "eval_loss" in entry][-1]
    assert result.metric_value == round(evaluated["eval_loss"], 4) and result.dataset_split == "validation"
    index = eval_results_to_model_index(card.data.model_name, card.data.eval_results)
    assert index == metadata_load(trained / "README.md")["model-index"]
    assert model_index_to_eval_results(index) == ("convirt", [result])
    limits = card.text.split("## Limits")[1]
    near_chance = evaluated["eval_loss_global"] > 0.9 * CHANCE
    assert ("little better than chance" in limits) == near_chance and "synthetic radiographs alone" in limits


def test_what_the_card_tells_runs_as_it_stands(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "convirt")
    add_remote_code(tmp_path / "convirt")
    monkeypatch.chdir(tmp_path)
    image_rows(1)["image"][0].save("image.png")
    card = Path("convirt/README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```bash\n(.*?)```", card, flags=re.DOTALL)
    assert medsyn_main(command.split()[1:]) == 0
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == 3 and "add_pooling_layer=False" in blocks[2]
    output = []
    for block in blocks:
        names = {}
        exec(block.replace('\nclassify("image', '\nanswers = classify("image'), names)
        output.append(names)
    assert sum(answer["score"] for answer in output[0]["answers"]) == pytest.approx(1)
    assert {answer["label"] for answer in output[0]["answers"]} == {"edema", "no edema"}
    weights, again = (names["model"].state_dict() for names in output[:2])
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    features = output[2]["image_encoder"](torch.zeros(1, 3, 32, 32))
    assert features.shape[-1] == output[0]["model"].vision_model.timm_model.num_features
    assert len(output[2]["tokenizer"]) == output[2]["text_encoder"].config.vocab_size


def test_the_manifest_of_a_dataset_on_the_hub_is_read_at_its_commit(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text(manifest("sd", "credentialed", ["mimic-cxr"]))
    commit = "0" * 40

    def download(repo_id, filename, *, repo_type, revision):
        """A Hub that holds one dataset, at one commit."""
        if (repo_id, filename, repo_type, revision) != ("org/medsyn-cxr", "manifest.json", "dataset", commit):
            raise LocalEntryNotFoundError("no manifest there")
        return str(tmp_path / "manifest.json")

    monkeypatch.setattr("trainers.training_card.hf_hub_download", download)
    origin = read_origin("org/medsyn-cxr", None, commit)
    assert origin["text_policy"] == "credentialed" and origin["generator"] == "sd" and origin["sha256"]
    assert set(read_origin("someone/else", None, commit).values()) == {None}
    assert set(read_origin("org/medsyn-cxr", None, "1" * 40).values()) == {None}
    assert set(read_origin("org/medsyn-cxr", None).values()) == {None}


@pytest.mark.parametrize(("method", "directions"), [("gloria", 2), ("mgca", 2)])
def test_card_gives_the_chance_loss_where_losses_are_added_up(method, directions, dataset, tmp_path):
    command = options(dataset, "scratch", tmp_path / "out", "--model", method, "--max_steps", "1")
    command += ["--sentence_rule", method]
    at = command.index("--projection_dim")
    assert main(command[:at] + command[at + 2 :]) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    found = re.search(
        rf"validation loss ([\d.]+) on {PAIRS} pairs in batches of {BATCHES}, of which ([\d.]+) lies .* loss is "
        r"(\d+\.\d+)",
        card,
    )
    whole, between, chance = map(float, found.groups())
    assert chance == pytest.approx(directions * CHANCE, abs=1e-3) and 0 < between < whole
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    evaluated = [entry for entry in state["log_history"] if "eval_loss" in entry][-1]
    assert between == pytest.approx(evaluated["eval_loss_global"], abs=1e-3)
    assert f"cut as the published code of {method} does" in card and "lr_scheduler_kwargs" not in card
    assert "`freeze_batch_norm=False`" in card  # a random start departs from the preset


@pytest.mark.parametrize("model", [tiny_convirt(alpha=0.3), tiny_gloria(weight_global=0.5), tiny_mgca()])
def test_chance_loss_is_that_of_equal_similarities(model):
    generator = torch.Generator().manual_seed(0)
    text = tiny_tokenizer()(["edema", "small mass", "no nodule"], padding=True, return_tensors="pt")
    features = model.eval()(**text, pixel_values=torch.randn(3, 3, 32, 32, generator=generator), features_only=True)
    features = {name: value[:1].expand_as(value) for name, value in features.items()}
    assert model.losses(features)["loss_global"].item() == pytest.approx(model.chance_loss(3), rel=1e-5)


def test_the_commit_of_a_dataset_from_the_hub_is_known(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "owner___images" / "default" / "0.0.0" / commit  # as datasets lays its cache out
    folder.mkdir(parents=True)
    with ArrowWriter(path=str(folder / "films-train.arrow")) as writer:
        writer.write({"image_id": "image000"})
        writer.finalize()
    rows = Dataset.from_file(str(folder / "films-train.arrow"))
    assert hub_revision(rows.select_columns(["image_id"]).select([0])) == commit
    assert hub_revision(image_rows(2)) is None


def test_reports_that_are_all_equal_are_refused(dataset, text_encoder, tmp_path, capsys):
    shutil.copytree(dataset, tmp_path / "medsyn-cxr")
    image_rows(6, repeats=6).to_parquet(tmp_path / "medsyn-cxr" / "data" / "train-00000-of-00001.parquet")
    assert main(options(tmp_path / "medsyn-cxr", text_encoder, tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert "6 rows hold 1 different texts, and a batch takes 4 of them; lower the batch size or bring more" in error


def test_card_claims_a_licence_for_phantoms_of_the_grammar_from_scratch_alone(dataset, trained, tmp_path):
    def terms(folder) -> tuple[str, str]:
        card = (folder / "README.md").read_text(encoding="utf-8")
        return yaml.safe_load(card.split("---")[1])["license"], card.split("## Terms")[1]

    licence, said = terms(trained)  # from a text encoder that was trained elsewhere
    assert licence == "other" and "an encoder started from weights with terms of their own" in said
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert "synthetic, made by `phantom` (config `phantom`)" in card
    assert "from grammar; text policy `public`" in card
    assert main(options(dataset, "scratch", tmp_path / "scratch", "--max_steps", "1")) == 0
    licence, said = terms(tmp_path / "scratch")
    assert licence == "apache-2.0" and "No licence" not in said


@pytest.mark.parametrize(
    ("written", "doubt"),
    [
        (manifest(text_policy="credentialed", sources=["notes.csv"]), "only credentialed users may read"),
        (manifest(sources=["notes.csv"]), "terms of the reports' source"),
        (manifest(generator="sd"), "the terms of `sd`"),
        ('{"rows": 34}', "not known what the dataset was made of"),
        ("not JSON", "not known what the dataset was made of"),
        (None, "not known what the dataset was made of"),
    ],
)
def test_what_keeps_a_licence_from_being_claimed(written, doubt, tmp_path):
    if written is not None:
        (tmp_path / "manifest.json").write_text(written)
    origin = read_origin(str(tmp_path), None)
    doubts = licence_doubts(origin, borrowed=False)
    assert len(doubts) == 1 and doubt in doubts[0]
    assert (origin["sha256"] is None) == (written is None)


def test_the_origin_is_that_of_the_config_learnt_from(tmp_path):
    both = json.loads(manifest())
    both["configs"] |= json.loads(manifest("sd", "credentialed", ["notes.csv"]))["configs"]
    (tmp_path / "manifest.json").write_text(json.dumps(both))
    assert read_origin(str(tmp_path), "default")["generator"] == "phantom"
    assert read_origin(str(tmp_path), "sd")["text_policy"] == "credentialed"
    assert read_origin(str(tmp_path), "other")["generator"] is None


def test_a_card_names_folders_without_their_path_and_hub_datasets_in_full(tmp_path, monkeypatch):
    assert name_of("someone/medsyn-cxr") == "someone/medsyn-cxr"
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    assert name_of(tmp_path / "data") == name_of(".") == name_of("../data/") == "data"


def test_presets_set_defaults_and_options_win():
    _, data, training = parse(["--output_dir", "out", "--preset", "official", "--learning_rate", "3e-5"])
    assert data.horizontal_flip and data.sentence_rule == "convirt" and data.augmentation == "crop"
    assert training.learning_rate == 3e-5 and training.num_train_epochs == 1000
    assert training.lr_scheduler_type == "constant" and training.warmup_steps == training.max_grad_norm == 0
    paper, fixed = (parse(["--output_dir", "out", "--preset", name])[1:] for name in ("paper", "fixed"))
    paper[0].text_sampling = "full"
    assert paper[0] == fixed[0] and paper[1].num_train_epochs == fixed[1].num_train_epochs == 50
    model, data, training = parse(["--output_dir", "out", "--text_columns", "findings", "impression"])
    assert model.preset == "fixed" and not data.horizontal_flip and data.text_columns == ["findings", "impression"]
    assert training.lr_scheduler_type == "cosine" and training.weight_decay == 1e-6
    assert not training.remove_unused_columns and training.accelerator_config.split_batches


@pytest.mark.parametrize("method", ["convirt", "gloria"])
def test_sentences_are_drawn_as_published_and_whole_reports_learnt_by_default(method):
    drawn = {
        preset: parse(["--output_dir", "out", "--model", method, "--preset", preset])[1].text_sampling
        for preset in ("official", "paper", "fixed")
    }
    assert drawn == {"official": "sentence", "paper": "sentence", "fixed": "full"}
    assert parse(["--output_dir", "out", "--model", method])[1].text_sampling == "full"


def test_scratch_text_encoder_learns_its_own_words(dataset, tmp_path, capsys):
    out = tmp_path / "scratch"
    more = ["--text_columns", "findings", "impression", "--max_steps", "2", "--augmentation", "none"]
    assert main(options(dataset, "scratch", out, *more)) == 0
    tokenizer = AutoProcessor.from_pretrained(out).tokenizer
    assert tokenizer.tokenize("Effusion") == ["effusion"]
    config = AutoModel.from_pretrained(out).config
    assert config.text_config.vocab_size == len(tokenizer) and config.frozen_text_layers == 0
    card = ModelCard.load(out / "README.md")
    assert "random start, vocabulary from the training texts" in card.text
    assert card.data.medsyn["vocabulary_from_reports"]
    shown = capsys.readouterr().out
    assert "24 pairs (0 rows without text left out)" in shown
    command = shlex.split(shown.strip().splitlines()[-1])
    assert command[:2] == ["medsyn", "probe"]
    probe = probe_parser().parse_args(command[2:])
    assert probe.encoder == [str(out), f"random:{out}"] and probe.dataset == str(dataset)


def test_image_weights_bring_their_statistics(dataset, tmp_path):
    import timm

    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.pth")
    out = tmp_path / "out"
    more = ["--image_encoder", "resnet10t", "--image_weights", str(tmp_path / "weights.pth"), "--max_steps", "1"]
    assert main(options(dataset, "scratch", out, *more)) == 0
    assert AutoProcessor.from_pretrained(out).image_processor.image_mean == pytest.approx([0.485, 0.456, 0.406])


def test_grey_images_take_the_sum_of_the_colours_weights(dataset, tmp_path):
    import timm

    coloured = timm.create_model("resnet10t")
    torch.save(coloured.state_dict(), tmp_path / "weights.pth")
    out = tmp_path / "out"
    more = [
        "--image_encoder",
        "resnet10t",
        "--image_weights",
        str(tmp_path / "weights.pth"),
        "--num_channels",
        "1",
        "--learning_rate",
        "0",
    ]
    assert main(options(dataset, "scratch", out, *more, "--max_steps", "1")) == 0
    kernel = AutoModel.from_pretrained(out).vision_model.timm_model.conv1[0].weight
    torch.testing.assert_close(kernel, coloured.conv1[0].weight.sum(1, keepdim=True))
    assert AutoProcessor.from_pretrained(out).image_processor.num_channels == 1


def test_resume_from_the_last_checkpoint(dataset, text_encoder, trained, tmp_path):
    more = ["--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "2"]
    command = options(dataset, text_encoder, tmp_path, *more)
    assert main([*command, "--max_steps", "7"]) == 0
    full = AutoModel.from_pretrained(tmp_path).state_dict()
    card = (tmp_path / "README.md").read_text()

    def resume():
        assert main([*command, "--max_steps", "7", "--resume_from_checkpoint", "last"]) == 0
        resumed = AutoModel.from_pretrained(tmp_path).state_dict()
        assert all(torch.equal(value, full[name]) for name, value in resumed.items())

    (tmp_path / "model.safetensors").unlink()
    card = card.replace("<!-- end of notes -->", "Mine.\n<!-- end of notes -->")
    (tmp_path / "README.md").write_text(card)
    resume()  # after the last step: nothing is left to do but to leave the model
    assert (tmp_path / "README.md").read_text() == card and card.count("Mine.") == 1
    shutil.rmtree(tmp_path / "checkpoint-7")
    resume()


@pytest.mark.parametrize("rows", [1, 3])
def test_a_validation_split_of_one_report_is_left_out_with_a_word(rows, dataset, text_encoder, tmp_path, capsys):
    shutil.copytree(dataset, tmp_path / "medsyn-cxr")
    image_rows(rows, repeats=3).to_parquet(tmp_path / "medsyn-cxr" / "data" / "validation-00000-of-00001.parquet")
    out = tmp_path / "out"
    assert main(options(tmp_path / "medsyn-cxr", text_encoder, out, "--max_steps", "1")) == 0
    assert "no evaluation: 1 different report(s) in validation are too few" in capsys.readouterr().out
    assert "validation loss" not in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--text_columns", "caption"], "no column caption"),
        (["--train_split", "training"], "no split 'training', only train, validation"),
        (["--eval_split", "valid"], "no split 'valid', only train, validation"),
        (["--dataset", "medsyn-cxr-that-is-not-here"], "there is no dataset folder medsyn-cxr-that-is-not-here"),
        (["--per_device_train_batch_size", "1"], "at least 2 texts"),
        (["--dataset", "nowhere/at-all"], "nowhere/at-all"),
        (["--image_encoder", "resnet5000"], "'resnet5000' is neither"),
        (["--resume_from_checkpoint", "last"], "no checkpoint in"),
        (["--max_train_samples", "0"], "none of the 0 rows"),
    ],
)
def test_user_errors_are_one_sentence(more, message, dataset, text_encoder, tmp_path, capsys):
    assert main(options(dataset, text_encoder, tmp_path / "out", *more)) == 1
    error = capsys.readouterr().err
    assert message in error and "medsyn pretrain: " in error and "Traceback" not in error


def test_a_folder_that_holds_a_model_is_kept(dataset, text_encoder, trained, capsys):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert main(options(dataset, text_encoder, trained)) == 1
    assert "already holds a model" in capsys.readouterr().err
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "argv", [[], ["--output_dir", "out", "--model", "clip"], ["--output_dir", "out", "--nonsense"]]
)
def test_bad_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert "usage: medsyn pretrain" in capsys.readouterr().err


def test_a_run_that_no_longer_improves_stops_early(dataset, text_encoder, tmp_path):
    more = ["--learning_rate", "0", "--num_train_epochs", "6", "--early_stopping_patience", "1"]
    assert main(options(dataset, text_encoder, tmp_path / "out", *more)) == 0
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert 2 <= state["epoch"] < 6  # statistics of BatchNorm still move while the rate is 0
    assert state["global_step"] - state["best_global_step"] == state["global_step"] / state["epoch"]


@pytest.mark.slow
def test_accelerate_launches_two_processes(dataset, text_encoder, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "trainers/configs/cpu_2.yaml"]
    command = [
        *launch,
        "-m",
        "trainers.pretrain",
        *options(dataset, text_encoder, tmp_path / "out", "--max_steps", "2"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "batches of 8 different reports" in result.stdout
    assert result.stderr.count("BatchNorm takes its statistics from the 4 pairs of each process") == 1
    assert "on 2 processes" in (tmp_path / "out" / "README.md").read_text()


def test_a_second_run_cannot_write_the_same_folder(dataset, text_encoder, tmp_path, capsys):
    out = tmp_path / "out"
    with only_writer(out):
        assert main(options(dataset, text_encoder, out)) == 1
    assert "another command is writing" in capsys.readouterr().err and not (out / "config.json").exists()
