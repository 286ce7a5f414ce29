"""What people try on a page that is open to everybody, through the functions behind it."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dataset_builder.generators.phantom import PhantomGenerator
from spaces_app.guard import uploads
from spaces_app.guard.uploads import Refused, forget_upload, read_upload
from spaces_app.loading import share_heaps
from spaces_app.view.pictures import heat_overlay, image_picture, mask_overlay
from spaces_app.workbench import Workbench
from tests.fixtures.radiograph_trees import PATIENT_NAME, dicom_bytes, draw_image
from tests.spaces_app.guard.abuse_files import ABUSE, MEGABYTES, Measured, encoded
from tests.spaces_app.tiny_page import HOSTILE, model, rows

PEOPLE = 20
MEGABYTE = "effusion " * 120_000
OVERRIDE = "no effusion \u202enoisuffe egral"
ASKED = {  # what takes a text, by what it is for
    "prompt": lambda bench, one, text: bench.free_text(one, ["pointing"], [text]),
    "phrase": lambda bench, one, text: bench.where(one, "pointing", text),
    "search": lambda bench, one, text: bench.nearest_images(text, "pointing"),
    "impression": lambda bench, one, text: bench.make(text),
}


def tiny_bench() -> Workbench:
    from tests.fixtures.tiny_models import tiny_gloria

    return Workbench([model("pointing", tiny_gloria())], rows(), {"phantom": PhantomGenerator(64)})


@pytest.fixture(scope="module")
def bench():
    return tiny_bench()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of uploads that read_upload takes without being told."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


@pytest.fixture
def one():
    return uploads.Upload(draw_image(3), "your image")


UNASKABLE = [MEGABYTE, OVERRIDE, "a\0b", "", None, 42, ["effusion"], "effusion " * 200]


@pytest.mark.parametrize(
    ("use", "text"),
    # The phantom reads impressions of any length to their end.
    [(use, text) for use in ASKED for text in UNASKABLE if (use, text) != ("impression", UNASKABLE[-1])],
)
def test_texts_that_cannot_be_asked_are_refused_at_once(bench, one, use, text):
    started = time.process_time()
    with Measured() as cost, pytest.raises(Refused) as refusal:
        ASKED[use](bench, one, text)
    assert time.process_time() - started < 2 and cost.megabytes < 50
    assert len(str(refusal.value)) < 200 and str(refusal.value).isprintable()


@pytest.mark.parametrize("use", ASKED)
def test_script_is_a_text_like_any_other(bench, one, use):
    ASKED[use](bench, one, f"effusion {HOSTILE}")


@pytest.mark.parametrize(
    "text",
    [
        "no " * 660,
        "no, " * 500,
        "possible " * 220,
        "left right " * 180,
        "effusion or pneumothorax and " * 68,
        "effusion, " * 200,
        "(" * 2000,
        "." * 2000,
        "a" * 2000,
        "1.2." * 500,
        "no evidence of " * 130,
        "small moderate large " * 95,
        "\n" + "x\n" * 900,
    ],
)
def test_no_text_keeps_the_reader_of_findings_busy(bench, text):
    started = time.process_time()
    bench.make(text, seed=1)
    assert time.process_time() - started < 10


def test_no_image_of_the_server_can_be_read_or_deleted_by_its_path(folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(draw_image()))
    os.symlink(secret, folder / "mine.png")
    for path in (
        str(secret),
        f"{folder}/../secret.png",
        f"{folder}/mine.png",
        f"{folder}/%2e%2e/secret.png",
        "../secret.png",
        "..\\secret.png",
        f"file://{secret}",
        "/proc/self/fd/0",
        "/dev/urandom",
    ):
        with pytest.raises(Refused, match="not one that was uploaded here"):
            read_upload(path)
        forget_upload(path)
    assert secret.exists()


def test_an_image_with_a_patients_name_is_shown_without_it(folder, caplog, capsys):
    (folder / f"{PATIENT_NAME}.dcm").write_bytes(dicom_bytes(draw_image(), patient_id="4711-0815"))
    taken = read_upload(str(folder / f"{PATIENT_NAME}.dcm"))
    picture = image_picture(taken, 64)
    output = f"{taken!r} {picture.info} {caplog.text} {capsys.readouterr()}"
    assert "Zebedee" not in output and "4711" not in output
    assert (taken.name, taken.note) == ("your image", "")


def test_pictures_hold_pixels_and_nothing_that_was_written(bench, one):
    heat = bench.where(one, "pointing", "effusion")
    hostile = [(HOSTILE, (4.0, 4.0, 20.0, 20.0))]
    for picture in (heat_overlay(one, heat, boxes=hostile), mask_overlay(one, [(HOSTILE, one.pixels > 100)], hostile)):
        for kind in ("PNG", "JPEG"):
            assert b"script" not in encoded(picture, kind)


def crowd(folder: Path) -> tuple[dict, list[str], float, float]:
    """What `PEOPLE` at once get for the files in `folder`, by person; errors; megabytes that one person takes who was
    there before, and that all of them take. For a process of its own, whose heap no other test has shaped."""
    share_heaps()  # as the page does when it starts
    bench = tiny_bench()
    bench.warm_up()
    answers, errors = {}, []
    together = threading.Barrier(PEOPLE)

    def visit(person: int) -> None:
        path = str(folder / str(person) / "film")
        if person < PEOPLE:
            together.wait()
        try:
            taken = read_upload(path)
            forget_upload(path)
            scores = [reading.score for reading in bench.read(taken, ["pointing"])]
            heat = bench.where(taken, "pointing", "effusion")
            heat_overlay(taken, heat, side=256)
            found = bench.nearest_images(taken, "pointing", 3)
            made = bench.make("Left pleural effusion.", seed=person) if person % 5 == 0 else []
            answers[person] = (scores, float(heat.values.max()), [sample.id for sample, _ in found], len(made))
        except Refused as refusal:
            answers[person] = str(refusal)
        except Exception as error:  # a thread's own would be lost
            errors.append(repr(error))

    with Measured() as one_alone:
        visit(PEOPLE)  # hands in a large image and has one made
    del answers[PEOPLE]
    threads = [threading.Thread(target=visit, args=(person,)) for person in range(PEOPLE)]
    with Measured() as all_of_them:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return answers, errors, one_alone.megabytes, all_of_them.megabytes


def test_twenty_people_at_once_are_each_answered_and_need_no_more_memory_than_one(folder):
    """Half of them hand in an image of 25 megapixels, the others other files; all ask, and some have images made."""
    large = np.tile(draw_image(size=(500, 500)), (10, 10))
    files = [encoded(large), encoded(draw_image(size=(600, 500))), dicom_bytes(draw_image()), ABUSE["zip bomb"][0]()]
    for person in range(PEOPLE + 1):
        (folder / str(person)).mkdir()
        (folder / str(person) / "film").write_bytes(files[0 if person % 2 or person == PEOPLE else person // 2 % 4])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        answers, errors, one_alone, all_of_them = process.submit(crowd, folder).result()
    assert not errors and len(answers) == PEOPLE
    for person, answer in answers.items():
        if person % 2 == 0 and person // 2 % 4 == 3:
            assert answer.startswith("This is a ZIP file.")
        else:
            assert answer[3] == (person % 5 == 0)
    with_large = [answers[person][:3] for person in range(1, PEOPLE, 2)]
    assert all(answer == with_large[0] for answer in with_large)
    assert all_of_them < one_alone + MEGABYTES, (all_of_them, one_alone)
    left = sorted(int(path.parent.name) for path in folder.glob("*/film"))
    assert left == [person for person in range(0, PEOPLE, 2) if person // 2 % 4 == 3]
