"""Every endpoint of the page, called as a program calls it, with good and with bad input."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from dataset_builder.findings import CHEXPERT_LABELS
from spaces_app.interface import build
from spaces_app.serving import serving
from tests.fixtures.radiograph_trees import dicom_bytes
from tests.spaces_app.tiny_page import HOSTILE, image_bytes, workbench

ENDPOINTS = {
    "/read_film",
    "/explain",
    "/compare_texts",
    "/where",
    "/nearest_reports",
    "/nearest_films",
    "/make",
    "/samples",
    "/sample_film",
    "/about",
}


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def page(uploads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        built = build(workbench())
        built.launch(prevent_thread_lock=True, quiet=True, **serving())
        yield built
        built.close()


@pytest.fixture(scope="module")
def client(page, tmp_path_factory):
    made = Client(page.local_url, verbose=False, download_files=tmp_path_factory.mktemp("answers"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "Jane Doe.png"
    path.write_bytes(image_bytes(9, 64))
    return handle_file(str(path))


def answer(client, name: str, content: str) -> str:
    """What an endpoint answers to a request as it was typed, which gradio_client would not send."""
    place = f"{client.src}gradio_api/call/{name}"
    asked = httpx.post(place, content=content, headers={"content-type": "application/json"}, timeout=60)
    return httpx.get(f"{place}/{asked.json()['event_id']}", timeout=60).text


def test_endpoints_are_named_typed_and_told(client):
    output = client.view_api(return_format="dict", print_info=False)
    assert set(output["named_endpoints"]) == ENDPOINTS and not output["unnamed_endpoints"]
    for name, endpoint in output["named_endpoints"].items():
        assert len(endpoint["description"]) > 40, name
        for parameter in endpoint["parameters"]:
            assert parameter["type"] and parameter["label"], (name, parameter)
    assert [one["parameter_name"] for one in output["named_endpoints"]["/where"]["parameters"]] == [
        "film",
        "sample",
        "phrase",
        "model",
        "opacity",
    ]


def test_images_are_read(client, film, uploads):
    output = client.predict(film=film, models=["pointing", "plain"], findings=[], api_name="/read_film")
    assert list(output["scores"]) == ["pointing", "plain"] and output["film"] == "your image"
    assert set(output["scores"]["plain"]) == set(CHEXPERT_LABELS)
    assert all(0 <= score <= 1 for score in output["scores"]["plain"].values())
    assert "no probability" in output["meaning"] and output["report_says"] == {}
    again = client.predict(film=film, findings=["Edema"], api_name="/read_film")
    assert again["scores"] == {"plain": {"Edema": output["scores"]["plain"]["Edema"]}}
    sample = client.predict(sample="image-0", api_name="/read_film")
    assert sample["report_says"] == {"Pleural Effusion": 1, "Pneumothorax": 0, "Edema": -1}
    assert not [path for path in uploads.rglob("*") if path.is_file() and "Jane" in path.name]


def test_dicom_is_read_by_content_without_its_header(client, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    path = tmp_path / "film"
    path.write_bytes(dicom_bytes(pixels, PatientName="Doe^Jane", PatientID="12345"))
    output = client.predict(film=handle_file(str(path)), api_name="/read_film")
    assert output["film"] == "your image" and "Doe" not in json.dumps(output) and "12345" not in json.dumps(output)


def test_signs_and_texts(client, film):
    signs = client.predict(film=film, finding="Pneumothorax", models=["plain", "pointing"], api_name="/explain")
    assert list(signs) == ["plain", "pointing"] and "visible pleural line" in signs["pointing"]
    found = client.predict(sample="image-1", texts=f"clear lungs\n{HOSTILE}", api_name="/compare_texts")
    assert [one["text"] for one in found["plain"]] == ["clear lungs", HOSTILE]


def test_where_answers_with_a_picture_and_a_place(client):
    picture, output = client.predict(sample="image-0", phrase="pleural effusion", opacity=0.8, api_name="/where")
    assert Image.open(picture).size == (768, 768)
    assert output["model"] == "pointing" and 0 <= output["highest"]["x"] <= 1
    assert output["boxes"][0]["finding"] == "pleural effusion" and output["in_words"].startswith("Highest at the")


def test_images_and_reports_are_found(client, film):
    reports = client.predict(film=film, number=3, api_name="/nearest_reports")
    assert len(reports) == 3 and reports[0]["cosine"] >= reports[1]["cosine"] and reports[0]["impression"]
    images = client.predict(text="Right pneumothorax.", model="pointing", number=2, api_name="/nearest_films")
    assert len(images) == 2 and images[0]["sample"].startswith("image-")


def test_images_are_made_and_made_again(client):
    asked = {"impression": "Large left pleural effusion.", "number": 2, "seed": 5, "api_name": "/make"}
    pictures, output = client.predict(**asked)
    again, _ = client.predict(**asked)
    outlined, _ = client.predict(**asked, outlines=True)
    assert [one["seed"] for one in output] == [5, 6] and output[0]["labels"]["Pleural Effusion"] == 1
    first, second, third = (np.asarray(Image.open(made[0]["image"])) for made in (pictures, again, outlined))
    assert (first == second).all() and (first != third).any()
    assert output[0]["boxes"][0]["finding"] == "pleural effusion"


def test_what_there_is(client):
    about = client.predict(api_name="/about")
    assert about["models"]["pointing"]["grounds"] and not about["models"]["plain"]["grounds"]
    assert about["generators"] == ["phantom"] and about["use"] == "Research only. Not for clinical use."
    samples = client.predict(api_name="/samples")
    assert [one["sample"] for one in samples] == [f"image-{row}" for row in range(4)]
    picture, output = client.predict(sample="image-0", api_name="/sample_film")
    assert Image.open(picture).size == (768, 768) and (output["width"], output["height"]) == (48, 48)


BAD = [
    ("/read_film", {}, "There is no image"),
    ("/read_film", {"sample": "nobody"}, "There is no sample of that name"),
    ("/read_film", {"sample": "image-0", "models": ["other"]}, "there are: plain, pointing"),
    ("/read_film", {"sample": "image-0", "findings": ["Gout"]}, "no such finding"),
    ("/explain", {"sample": "image-0", "finding": "Gout"}, "no such finding"),
    ("/compare_texts", {"sample": "image-0", "texts": ""}, "is empty"),
    ("/compare_texts", {"sample": "image-0", "texts": "x" * 1_000_000}, "characters"),
    ("/compare_texts", {"sample": "image-0", "texts": "\n".join(map(str, range(40)))}, "40 texts"),
    ("/where", {"sample": "image-0", "phrase": "..."}, "holds no word"),
    ("/where", {"sample": "image-0", "phrase": "heart", "model": "plain"}, "there are: pointing"),
    ("/where", {"sample": "image-0", "phrase": "heart", "opacity": 7}, "from 0 to 1"),
    ("/nearest_reports", {"sample": "image-0", "number": 0}, "whole number"),
    ("/nearest_films", {"text": "heart", "number": 10_000}, "whole number"),
    ("/nearest_films", {"text": " "}, "is empty"),
    ("/make", {"impression": ""}, "is empty"),
    ("/make", {"impression": "Edema.", "generator": "none"}, "no such generator"),
    ("/make", {"impression": "Edema.", "number": 50}, "whole number"),
    ("/make", {"impression": "Edema.", "seed": -1}, "whole number"),
    ("/sample_film", {"sample": "../../etc/passwd"}, "There is no sample"),
]


@pytest.mark.parametrize(("name", "asked", "output"), BAD)
def test_what_cannot_be_done_is_told_in_a_sentence(client, name, asked, output):
    with pytest.raises(AppError) as error:
        client.predict(**asked, api_name=name)
    said = str(error.value)
    assert output in said and said.endswith(".") and "Traceback" not in said and "/" not in said.replace("e.g.", "")


def test_files_that_are_no_images_are_refused_and_deleted(client, uploads, tmp_path):
    path = tmp_path / "Jane Doe.png"
    path.write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(AppError, match="SVG"):
        client.predict(film=handle_file(str(path)), api_name="/read_film")
    assert not [left for left in uploads.rglob("*") if left.is_file() and "Jane" in left.name]


def test_nothing_of_a_visitor_outlives_the_visit(client, film, page, monkeypatch):
    monkeypatch.setenv("GRADIO_IS_E2E_TEST", "1")  # the server looks four times a second whether a visitor left
    visitor = Client(client.src, verbose=False)
    visitor.predict(film=film, api_name="/read_film")
    sessions = page.state_holder.session_data
    assert visitor.session_hash in sessions
    visitor.close()
    until = time.monotonic() + 20
    while visitor.session_hash in sessions and time.monotonic() < until:
        time.sleep(0.1)
    assert visitor.session_hash not in sessions and client.session_hash in sessions


def test_people_who_upload_one_image_do_not_share_a_file(client, tmp_path):
    asked = {"data": [None, "", [], ["Edema"]]}
    files = {"files": ("image.png", image_bytes(8, 64), "image/png")}
    paths = [httpx.post(f"{client.src}gradio_api/upload", files=files, timeout=60).json()[0] for _ in range(2)]
    assert paths[0] != paths[1]
    for path in paths:
        asked["data"][0] = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert '"Edema": 0.' in answer(client, "read_film", json.dumps(asked))
        assert not Path(path).exists()


@pytest.mark.parametrize("place", ["film", "sample"])
def test_nothing_is_fetched_for_a_visitor(client, place):
    elsewhere = {"path": "https://example.org/image.png", "meta": {"_type": "gradio.FileData"}}
    asked = {"data": [elsewhere if place == "film" else None, elsewhere if place == "sample" else "", [], []]}
    assert "fetches nothing from other servers" in answer(client, "read_film", json.dumps(asked))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("make", '["Edema.", "", 1, NaN, false]'),
        ("make", '["Edema.", "", Infinity, 0, false]'),
        ("make", '["Edema.", "", 1, 1.5, false]'),
        ("where", '[null, "image-0", "effusion", "", NaN]'),
        ("nearest_films", '["normal chest", "", 1e400]'),
        ("nearest_films", '["normal chest", "", 21]'),
    ],
)
def test_what_is_no_number_in_range_is_told_in_a_sentence(client, name, data):
    assert re.search("has to be a (whole )?number from 0|from 1 to", answer(client, name, f'{{"data": {data}}}'))


def test_files_of_the_server_are_out_of_reach(client):
    for path in ("/etc/passwd", str(Path(__file__))):
        with pytest.raises(Exception) as error:  # noqa: B017, PT011  gradio itself refuses some of them
            client.predict(film={"path": path, "meta": {"_type": "gradio.FileData"}}, api_name="/read_film")
        assert "root:" not in str(error.value)
