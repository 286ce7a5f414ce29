"""The tab Make with a diffusion pipeline, of random weights, as a program uses it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from dataset_builder.generators.phantom import PhantomGenerator
from spaces_app.interface import build
from spaces_app.loading import load_pipeline
from spaces_app.serving import serving
from spaces_app.session import Session
from spaces_app.tabs import make as tab_make
from spaces_app.workbench import Workbench
from tests.spaces_app.tiny_page import workbench

STEPS = 12


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    pytest.importorskip("diffusers")
    from tests.fixtures.tiny_diffusion import save_tiny_pipeline

    drawer = load_pipeline(str(save_tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny")), "cpu")
    drawer.num_inference_steps = STEPS
    tiny = workbench()
    return Workbench(list(tiny.models.values()), tiny.rows, {"phantom": PhantomGenerator(64), "tiny": drawer})


@pytest.fixture(scope="module")
def client(bench, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page = build(bench)
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **serving())
        made = Client(url, verbose=False, download_files=tmp_path_factory.mktemp("answers"))
        yield made
        made.close()
        page.close()


def test_a_pipeline_tells_its_steps_and_gives_the_same_image_again(client, bench, monkeypatch):
    generator = bench.generators["tiny"]
    draw = type(generator).__call__

    def slowly(self, records, seeds, on_step=None):
        return draw(self, records, seeds, on_step=lambda *at: (on_step(*at), time.sleep(0.1)))

    monkeypatch.setattr(type(generator), "__call__", slowly)
    asked = {"impression": "Small left effusion.", "generator": "tiny", "number": 2, "seed": 4, "api_name": "/make"}
    job, output = client.submit(**asked), []
    while not job.done():
        output += [(one.index, one.length, one.desc) for one in job.status().progress_data or ()]
        time.sleep(0.02)
    pictures, facts = job.result()
    output = list(dict.fromkeys(output))
    assert len(output) > STEPS and output == sorted(output), output
    assert {length for _, length, _ in output} == {2 * STEPS}
    assert f"image 1 of 2, step 3 of {STEPS}" in [desc for _, _, desc in output]
    assert [one["seed"] for one in facts] == [4, 5]
    assert facts[0]["labels"] is None and facts[0]["boxes"] == []
    asked |= {"number": 1, "seed": 5}
    again, _ = client.predict(**asked)
    first, second, third = (np.asarray(Image.open(one["image"])) for one in (*pictures, *again))
    assert (first != second).any() and (second == third).all()


def test_an_impression_that_the_pipeline_would_cut_is_refused(client):
    with pytest.raises(AppError, match="longer than tiny reads"):
        client.predict(impression="small left effusion " * 10, generator="tiny", api_name="/make")


def test_nothing_is_said_of_what_a_pipeline_drew(bench):
    made = tab_make.draw(Session(bench), "Hello there.", "tiny", 1, 0)
    output = tab_make.told_html(made)
    assert "is not known" in output and "phantom" not in output
    assert "nothing outlined" in tab_make.images_html(made)
