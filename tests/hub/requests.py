"""What tests of the stand-in Hub ask of it, by the client and past it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from tests.hub.server import StandInHub

NAME = "your-org/images"
DATASET = {"repo_id": NAME, "repo_type": "dataset"}
COMMIT = f"/api/datasets/{NAME}/commit/main"


def upload(api: HfApi, files: dict[str, bytes], **more):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(**{**DATASET, "operations": operations, "commit_message": "more", **more})


def fetch(url: str, method: str = "GET", **headers):
    """Status, headers and body without any client's cleverness: redirects are not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments):
            return None

    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.build_opener(Stay).open(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def post(hub: StandInHub, path: str, *lines: dict) -> tuple[int, str]:
    """Status and message of what no client would send."""
    body = "\n".join(map(json.dumps, lines)).encode()
    request = urllib.request.Request(hub.endpoint + path, body, {"Authorization": f"Bearer {hub.token}"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.headers["X-Error-Message"]


def names(entries) -> list[str]:
    return [entry.path for entry in entries]


def status_of(error: pytest.ExceptionInfo) -> int:
    return error.value.response.status_code
