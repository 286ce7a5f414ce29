"""The page answers under trusted names alone, and to pages of nobody else."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from spaces_app.guard.headers import Guarded


def client(**settings) -> TestClient:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("page"), methods=["GET", "POST"])])
    return TestClient(Guarded(app, **settings), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST", "localhost."]
)
def test_loopback_names_are_answered(host):
    assert client().get("/", headers={"host": host}).text == "page"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "10.0.0.7"],
)
def test_other_names_are_refused(host):
    for method in ("GET", "POST"):
        assert client().request(method, "/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "https://evil.example:7860", "null", "file://"])
def test_pages_of_others_are_refused(origin):
    assert client().post("/", headers={"origin": origin}).status_code == 403
    assert client().post("/", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


def test_named_hosts_and_all_addresses_are_trusted_where_asked_for():
    named = client(hosts=frozenset({"ward.example"}))
    assert named.get("/", headers={"host": "ward.example:80"}).status_code == 200
    assert named.get("/", headers={"host": "x.ward.example"}).status_code == 403
    everywhere = client(any_address=True)
    for host in ("10.0.0.7:7860", "[fd00::7]:7860"):
        assert everywhere.get("/", headers={"host": host}).status_code == 200
    assert everywhere.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client(hosts=None).get("/", headers={"host": "anything.example"}).status_code == 200
