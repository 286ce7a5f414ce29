"""Every call of the Hub waits as long as it is asked to, up to a limit, and no longer."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from dataset_builder.build import build
from hub_medsyn.publishing.publish import main
from hub_medsyn.publishing.retrying import ATTEMPTS, LONGEST_WAIT, asked_to_wait, retry
from tests.fixtures.generators import FakeGenerator, fake_records

REPO = "your-org/medsyn-cxr"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "medsyn-cxr"
    build(list(fake_records(12)), FakeGenerator(), folder, text_policy="public")
    return folder


CALLS = [
    ("GET", "/whoami-v2"),
    ("GET", "/api/datasets/your-org/medsyn-cxr$"),
    ("GET", "/tree/"),
    ("POST", "/repos/create"),
    ("PUT", "/settings"),
    ("POST", "/preupload/"),
    ("POST", "/commit/"),
    ("GET", "/resolve/"),
    ("HEAD", "/resolve/"),
]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("call", CALLS, ids=[f"{method} {path}" for method, path in CALLS])
def test_a_busy_hub_never_ends_a_publish(hub, folder, no_waiting, call, status):
    assert main(["dataset", str(folder), "--repo", REPO, "--private"]) == 0  # so that every call has an answer
    HfApi().delete_repo(REPO, repo_type="dataset")
    hub.fail_next(*call, status=status, times=2, retry_after="7")
    arguments = ["dataset", str(folder), "--repo", REPO, "--private"]
    assert main(arguments) == 0
    assert main([*arguments, "--gated"]) == 0  # settings and files of an existing repository are asked for too
    assert HfApi().dataset_info(REPO).private and len(HfApi().list_repo_files(REPO, repo_type="dataset")) >= 5


def test_the_wait_is_told_and_a_longer_one_ends_with_its_length(hub, folder, no_waiting, capsys):
    hub.fail_next("GET", "/whoami-v2", status=429, retry_after="7")
    assert main(["dataset", str(folder), "--repo", REPO]) == 0
    assert "answers 429; trying again in 7 s" in capsys.readouterr().out
    hub.fail_next("GET", "/whoami-v2", status=429, retry_after=str(LONGEST_WAIT + 1))
    assert main(["dataset", str(folder), "--repo", REPO]) == 1
    assert f"wait {LONGEST_WAIT + 1} s and run the same command again" in capsys.readouterr().err


def answer(hub, **headers) -> HfHubHTTPError:
    hub.fail_next("GET", "/whoami-v2", status=429, **headers)
    with pytest.raises(HfHubHTTPError) as raised:
        HfApi().whoami()
    return raised.value


def test_how_long_the_hub_asks_to_wait(hub):
    assert asked_to_wait(answer(hub, retry_after="12")) == 12
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    assert 90 < asked_to_wait(answer(hub, retry_after=later)) <= 100
    past = format_datetime(datetime.now(timezone.utc) - timedelta(seconds=100), usegmt=True)
    assert asked_to_wait(answer(hub, retry_after=past)) == 0
    assert asked_to_wait(answer(hub, ratelimit='"api";r=0;t=55')) == 55
    for odd in ("soon", "-3", "1e9 s"):
        assert asked_to_wait(answer(hub, retry_after=odd)) is None
    assert asked_to_wait(answer(hub)) is None


def test_other_errors_are_raised_at_once_and_busy_ones_after_the_last_attempt(hub, no_waiting):
    tries = []

    def whoami():
        tries.append(1)
        return HfApi().whoami()

    hub.fail_next("GET", "/whoami-v2", status=403, times=9)
    with pytest.raises(HfHubHTTPError):
        retry(whoami)
    assert len(tries) == 1
    hub.faults.clear()
    hub.fail_next("GET", "/whoami-v2", status=503, times=99)
    with pytest.raises(HfHubHTTPError):
        retry(whoami)
    assert len(tries) == 1 + ATTEMPTS
