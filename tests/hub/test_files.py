"""Files on the stand-in Hub: what is large, integrity, ranges, parts, faults, and what `datasets` reads of them."""

import hashlib
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from tests.hub.clients import online
from tests.hub.requests import COMMIT, DATASET, NAME, fetch, post, upload


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi()


@pytest.fixture
def images(api) -> HfApi:
    """An API after `your-org/images`, a dataset, was created."""
    api.create_repo(**DATASET)
    return api


def test_a_second_upload_of_the_same_sends_nothing(hub, images, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("a.parquet", "a.bin", "a.txt"):
        (tmp_path / "folder" / name).write_bytes(name.encode())
    (tmp_path / "folder" / "README.md").write_text("---\nlicense: mit\n---\n# Images\n")
    images.upload_folder(folder_path=tmp_path / "folder", **DATASET)
    assert len(hub.uploads) == 3  # two large files and a commit
    before = images.dataset_info(NAME).sha
    hub.log.clear()
    images.upload_folder(folder_path=tmp_path / "folder", **DATASET)
    assert hub.uploads == [] and images.dataset_info(NAME).sha == before
    upload(images, {"again.bin": b"a.bin"})  # a new name for content that is there
    assert [seen.method for seen in hub.uploads] == ["POST"]


def test_many_files_are_asked_for_in_batches(hub, images):
    made = upload(images, {f"{number:03d}.bin": str(number).encode() for number in range(300)})
    assert [len(hub.asked("POST", path)) for path in ("/preupload/", "objects/batch", "/commit/")] == [2, 2, 1]
    assert len(hub.asked("PUT", "^/upload/")) == 300
    assert len(images.list_repo_files(**DATASET)) == 301 and images.dataset_info(NAME).sha == made.oid


def test_gitattributes_decide_what_is_large_as_on_the_hub(hub, images):
    def large(api: HfApi, kind: str, name: str, content: bytes) -> bool:
        operation = CommitOperationAdd(name, content)
        api.preupload_lfs_files(NAME, [operation], repo_type=kind)
        return operation._upload_mode == "lfs"

    images.create_repo(NAME)
    assert large(images, "dataset", "a.png", b"x") and not large(images, "model", "a.png", b"x")
    assert large(images, "model", "a.safetensors", b"x") and not large(images, "dataset", "a.json", b"x")
    assert large(images, "dataset", "big file.json", b"x" * (10 * 2**20 + 1))
    upload(images, {"big file.json": b"x" * (10 * 2**20 + 1)})
    attributes = images.hf_hub_download(filename=".gitattributes", **DATASET)
    assert "big[[:space:]]file.json filter=lfs" in open(attributes).read()
    upload(images, {".gitignore": b"*.log\n"})
    assert images.preupload_lfs_files(additions=[one := CommitOperationAdd("a/b.log", b"x")], **DATASET) is None
    assert one._should_ignore and images.dataset_info(NAME).sha


def test_content_that_is_not_what_it_says_is_refused(hub, images):
    wrong = CommitOperationAdd("a.png", b"what is sent")
    wrong.upload_info.sha256 = hashlib.sha256(b"what is promised").digest()
    with pytest.raises(RuntimeError) as error:
        images.create_commit(operations=[wrong], commit_message="wrong", **DATASET)
    refused = error.value.__cause__
    assert "has sha256" in str(refused) and refused.response.status_code == 400
    assert "a.png" not in images.list_repo_files(**DATASET)
    header = {"key": "header", "value": {"summary": "bad"}}
    promised = {"key": "lfsFile", "value": {"path": "a.png", "algo": "sha256", "oid": "0" * 64, "size": 3}}
    status, said = post(hub, COMMIT, header, promised)
    assert status == 400 and "a file that does not exist" in said


def test_large_files_in_parts(tmp_path):
    with online(tmp_path, part_size=1000) as hub:
        api = HfApi()
        api.create_repo(**DATASET)
        content = bytes(range(250)) * 10
        upload(api, {"a.bin": content, "b.bin": content[:1000]})
        assert [seen.status for seen in hub.asked("PUT", "^/upload/")] == [200] * 4
        assert sorted(seen.body_bytes for seen in hub.asked("PUT", "^/upload/")) == [500, 1000, 1000, 1000]
        assert len(hub.asked("POST", "^/complete/")) == 1
        assert len(hub.asked("POST", "info/lfs/verify")) == 2
        assert open(api.hf_hub_download(filename="a.bin", **DATASET), "rb").read() == content


def test_large_files_come_from_another_origin_without_the_token(hub, images):
    upload(images, {"a.parquet": b"0123456789", "a.txt": b"0123456789"})
    where, signed_in = f"{hub.endpoint}/datasets/{NAME}/resolve/main/", {"Authorization": f"Bearer {hub.token}"}
    status, headers, _ = fetch(where + "a.parquet", "HEAD", **signed_in)
    assert status == 302 and headers["Location"].startswith(hub.storage_endpoint)
    assert hub.storage_endpoint != hub.endpoint
    assert headers["X-Linked-Etag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    assert headers["X-Linked-Size"] == "10" and headers["X-Repo-Commit"] == images.dataset_info(NAME).sha
    place = headers["Location"]
    assert fetch(place)[::2] == (200, b"0123456789")
    assert fetch(place, **signed_in)[0] == 400  # a token that leaks to another origin
    assert fetch(place.replace("signature=", "signature=0"))[0] == 403
    hub.log.clear()
    assert open(images.hf_hub_download(filename="a.parquet", **DATASET), "rb").read() == b"0123456789"
    assert [(seen.status, seen.token) for seen in hub.log if seen.origin == "storage"] == [(200, None)]
    for url in (place, where + "a.txt"):
        for asked, status, got, output in (
            ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=-2", 206, b"89", "bytes 8-9/10"),
            ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
            ("bytes=10-", 416, b"", "bytes */10"),
        ):
            found = fetch(url, Range=asked)
            assert (found[0], found[2], found[1]["Content-Range"]) == (status, got, output)
    status, headers, body = fetch(where + "a.txt", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "10", b"")


def test_faults_on_demand(hub, images, no_waiting):
    hub.fail_next("PUT", "^/upload/", skip=1)
    upload(images, {"a.bin": b"a" * 100_000, "b.bin": b"b" * 100_000})  # the client tries again by itself
    assert sorted(seen.status for seen in hub.asked("PUT", "^/upload/")) == [0, 200, 200]
    for status in (500, 503, 429):
        hub.log.clear()
        hub.fail_next("PUT", "^/upload/", status)
        upload(images, {"a.bin": str(status).encode()})
        assert [seen.status for seen in hub.asked("PUT", "^/upload/")] == [status, 200]
    hub.fail_next("POST", "/commit/", 500)
    with pytest.raises(HfHubHTTPError, match="a fault on demand"):
        upload(images, {"a.bin": b"x"})
    upload(images, {"a.bin": b"x"})


def test_an_interrupted_upload_goes_on(hub, images, no_waiting):
    files = {f"{name}.bin": name.encode() * 5000 for name in "abcd"}
    hub.fail_next("PUT", "^/upload/", skip=2, times=1000)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        upload(images, files, num_threads=1)
    arrived = [seen.path for seen in hub.asked("PUT", "^/upload/") if seen.status == 200]
    assert len(arrived) == 2 and images.list_repo_files(**DATASET) == [".gitattributes"]
    hub.faults.clear()
    hub.log.clear()
    upload(images, files, num_threads=1)
    later = [seen.path for seen in hub.asked("PUT", "^/upload/")]
    assert len(later) == 2 and not set(later) & set(arrived)
    assert len(images.list_repo_files(**DATASET)) == 5


def test_datasets_are_pushed_loaded_and_streamed(hub, tmp_path):
    from datasets import Dataset, Features, Value, load_dataset
    from datasets import Image as ImageFeature

    images = [Image.new("L", (8, 8), shade) for shade in range(6)]
    features = Features({"image": ImageFeature(), "text": Value("string")})
    rows = Dataset.from_dict({"image": images, "text": [f"image {shade}" for shade in range(6)]}, features=features)
    rows.push_to_hub(NAME)
    first = HfApi().dataset_info(NAME).sha
    rows.select(range(2)).push_to_hub(NAME, "few", split="test")
    assert [row["text"] for row in load_dataset(NAME, split="train")] == [f"image {shade}" for shade in range(6)]
    assert load_dataset(NAME, "few")["test"].num_rows == 2
    with pytest.raises(ValueError, match="few"):
        load_dataset(NAME, "few", revision=first)
    hub.log.clear()
    streamed = load_dataset(NAME, split="train", streaming=True, columns=["image"])
    assert [row["image"].getpixel((0, 0)) for row in streamed] == list(range(6))
    read = [seen for seen in hub.log if seen.origin == "storage"]
    assert read and not any(seen.token for seen in read)
    with pytest.raises(Exception, match="doesn't exist on the Hub or cannot be accessed"):
        load_dataset("your-org/nothing")


def test_streaming_one_column_reads_parts_of_a_large_file(hub, images, tmp_path):
    from datasets import load_dataset

    noise = [random.Random(row).randbytes(2**19) for row in range(36)]
    table = pa.table({"noise": pa.array(noise), "text": [f"image {row}" for row in range(36)]})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=12)
    size = (tmp_path / "train.parquet").stat().st_size
    images.upload_file(path_or_fileobj=tmp_path / "train.parquet", path_in_repo="train.parquet", **DATASET)
    hub.log.clear()
    streamed = load_dataset(NAME, split="train", streaming=True, columns=["text"])
    assert [row["text"] for row in streamed] == table["text"].to_pylist()
    read = [seen for seen in hub.log if seen.origin == "storage"]
    assert read and {seen.status for seen in read} == {206}
    assert sum(seen.sent for seen in read) < 0.6 * size  # the client reads ahead, 5 MiB at a time
