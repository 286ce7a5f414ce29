"""One stand-in Hub for the whole way: a dataset is built and published, a model learns from it there and follows."""

from pathlib import Path

import pytest
from transformers import BertModel

from dataset_builder.build import build
from hub_medsyn.publishing.publish import publish_dataset, publish_model
from tests.fixtures.generators import FakeGenerator, fake_records
from tests.fixtures.tiny_models import tiny_text_config, tiny_tokenizer
from tests.hub.clients import online
from trainers.pretrain import main as pretrain

DATASET, MODEL = "your-org/medsyn-cxr", "your-org/medsyn-tiny"


@pytest.fixture(scope="package")
def hub(tmp_path_factory):
    """In the place of the empty Hub that other tests get: this one is shared, so that tests add to it alone."""
    with online(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="package")
def built(tmp_path_factory) -> Path:
    """A dataset folder of two configs."""
    folder = tmp_path_factory.mktemp("built") / "medsyn-cxr"
    for name, number in (("fake", 60), ("other", 30)):
        build(list(fake_records(number)), FakeGenerator(name=name), folder, text_policy="public")
    return folder


@pytest.fixture(scope="package")
def dataset(hub, built) -> str:
    publish_dataset(built, DATASET)
    return DATASET


@pytest.fixture(scope="package")
def trained(dataset, tmp_path_factory) -> Path:
    """A checkpoint that learnt for a step from the published dataset."""
    text, out = tmp_path_factory.mktemp("text"), tmp_path_factory.mktemp("runs") / "medsyn-tiny"
    BertModel(tiny_text_config(), add_pooling_layer=False).save_pretrained(text)
    tiny_tokenizer().save_pretrained(text)
    command = f"--dataset {dataset} --output_dir {out} --image_encoder random:resnet10t --text_encoder {text}"
    command += " --max_steps 1"
    command += " --image_size 32 --projection_dim 16 --per_device_train_batch_size 4 --per_device_eval_batch_size 4"
    assert pretrain([*command.split(), "--use_cpu", "--disable_tqdm", "true"]) == 0
    return out


@pytest.fixture(scope="package")
def model(hub, trained) -> str:
    publish_model(trained, MODEL)
    return MODEL
