"""
A Hub on this machine, for the tests and to try publishing on: `make hub`.

It speaks the part of the Hub's HTTP that `huggingface_hub`, `datasets`, `transformers`, `timm` and `diffusers` use to
publish and load: real commits in git repositories, large files checked by their sha256 and served by another origin.
It has no Xet, no rate limits, no dataset viewer and no accounts but those of `tests/hub/accounts.py`; what works here
has still to be tried on huggingface.co.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from tests.hub.accounts import EXPIRED, READ_ONLY, SOMEBODY_ELSE, WRITE, Visitor
from tests.hub.http import Answer, Fault, Incoming, Listener, Seen
from tests.hub.large_files import LargeFiles
from tests.hub.reading import PREFIX, Reading
from tests.hub.repositories import HubError, Repositories, Repository
from tests.hub.writing import Writing, refuse_bad_card, wants_private

API = re.compile(r"/api/(model|dataset|space)s/([^/]+/[^/]+?)(?:/([a-z-]+)(?:/(.*))?)?")
RESOLVE = re.compile(r"/(?:(dataset|space)s/)?(.+?)/resolve/([^/]+)/(.+)")
LFS = re.compile(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/(objects/batch|verify)")
PAGE = re.compile(r"/(?!api/)(?:(dataset|space)s/)?([^/]+/[^/]+)")
NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(?<![.-])(?<!\.git)")


class StandInHub:
    """
    Serves while it is entered: `with StandInHub(folder) as hub`.

    Args:
        folder (`str` or `Path`): Holds the repositories, and goes on with those that are there.
        port (`int`, *optional*, defaults to 0): Of `endpoint` on the loopback; 0 takes a free one.
        page_size (`int`, *optional*, defaults to 1000): Entries a page of a listing.
        part_size (`int`, *optional*, defaults to 64 MiB): Larger files are uploaded in parts of so many bytes.
    """

    token, read_only_token, expired_token, somebody_elses_token = WRITE, READ_ONLY, EXPIRED, SOMEBODY_ELSE
    user, organization = "you", "your-org"

    def __init__(self, folder: str | Path, port: int = 0, page_size: int = 1000, part_size: int = 2**26):
        self.repositories = Repositories(Path(folder))
        self.large_files = LargeFiles(self.repositories, part_size)
        self.reading, self.writing = Reading(self.large_files, page_size), Writing()
        self.log: list[Seen] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._hub = Listener(self, self.answer, "hub", port)
        self._storage = Listener(self, self.large_files.storage, "storage")
        self.endpoint, self.storage_endpoint = self._hub.url, self._storage.url
        self.large_files.hub_url = self.reading.url = self.writing.url = self.endpoint
        self.large_files.storage_url = self.storage_endpoint
        read, write = self.reading, self.writing
        self._verbs = {
            ("GET", ""): read.info,
            ("GET", "revision"): read.info,
            ("GET", "tree"): read.tree,
            ("POST", "paths-info"): read.paths_info,
            ("GET", "commits"): read.commits,
            ("GET", "refs"): read.refs,
            ("GET", "auth-check"): read.auth_check,
            ("POST", "preupload"): write.preupload,
            ("POST", "commit"): write.commit,
            ("POST", "branch"): write.create_branch,
            ("DELETE", "branch"): write.delete_branch,
            ("POST", "tag"): write.create_tag,
            ("DELETE", "tag"): write.delete_tag,
            ("PUT", "settings"): write.settings,
            ("POST", "user-access-request"): write.let_in,
        }

    def __enter__(self) -> StandInHub:
        self._hub.thread.start()
        self._storage.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._hub.stop()
        self._storage.stop()

    def wait(self) -> None:
        """Until Ctrl-C."""
        self._hub.thread.join()

    # What tests do with it

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.log.append(seen)

    def asked(self, method: str, path: str) -> list[Seen]:
        """The requests so far whose method is `method` and in whose path the regular expression `path` is found."""
        return [seen for seen in self.log if seen.method == method and re.search(path, seen.path)]

    @property
    def uploads(self) -> list[Seen]:
        """Requests that brought content: large files and their parts, and commits."""
        return [*self.asked("PUT", "^/upload/"), *self.asked("POST", "/commit/")]

    def fail_next(
        self, method: str, path: str, status: int | None = None, skip: int = 0, times: int = 1, **headers: str
    ):
        """
        Makes requests fail.

        Args:
            method (`str`): Of HTTP.
            path (`str`): A regular expression that is searched in the path; `"^/upload/"` for large files.
            status (`int`, *optional*): What to answer; without it the connection breaks in the middle of the body.
            skip (`int`, *optional*, defaults to 0): How many such requests pass first.
            times (`int`, *optional*, defaults to 1): How many then fail.
            headers (`str`): Of the answer; `retry_after="0"` is sent as `retry-after`.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(method, path, status, skip, times, named))

    def before_next(self, method: str, path: str, action: Callable[[], object]) -> None:
        """Does something right before the next such request is answered; a push in between, for instance."""
        self.faults.append(Fault(method, path, None, 0, 1, action=action))

    def fault_for(self, incoming: Incoming) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.method == incoming.method and re.search(fault.path, incoming.path) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                    else:
                        fault.times -= 1
                        return fault
        return None

    def repository(self, kind: str, repo_id: str) -> Repository:
        found = self.repositories.find(kind, repo_id)
        if found is None:
            raise KeyError(f"the stand-in holds no {kind} {repo_id}")
        return found

    def push(self, kind: str, repo_id: str, files: dict[str, bytes | None], title: str = "from elsewhere") -> str:
        """A commit by somebody else who works on the same repository; returns its id."""
        repository = self.repository(kind, repo_id)
        with repository.lock:
            ref = "refs/heads/main"
            return repository.commit(ref, repository.resolve("main"), "colleague", title, "", list(files.items()))

    # HTTP

    def answer(self, incoming: Incoming) -> Answer:
        on_a_repository = incoming.path.startswith(("/api/models", "/api/datasets", "/api/spaces")) or bool(
            RESOLVE.fullmatch(incoming.path) or LFS.fullmatch(incoming.path)
        )
        visitor = Visitor.of(incoming.token, on_a_repository)
        method, path = incoming.method, incoming.path
        if found := API.fullmatch(path):
            return self._on_repository(incoming, visitor, found)
        if found := RESOLVE.fullmatch(path):
            repository = self._seen(visitor, found[1] or "model", found[2])
            return self.reading.file(visitor, repository, unquote(found[3]), unquote(found[4]))
        if found := LFS.fullmatch(path):
            repository = self._seen(visitor, found[1] or "model", found[2])
            visitor.refuse_signed_out()
            if visitor.role != "write":
                raise HubError(403, "Forbidden: your token may not write to this repository")
            take = self.large_files.verify if found[3] == "verify" else self.large_files.batch
            return take(repository, incoming.json())
        if path.startswith("/complete/"):
            return self.large_files.complete(incoming)
        if (method, path) == ("GET", "/api/whoami-v2"):
            return Answer(visitor.whoami())
        if (method, path) == ("POST", "/api/repos/create"):
            return self._create(incoming.json(), visitor)
        if (method, path) == ("DELETE", "/api/repos/delete"):
            return self._delete(incoming.json(), visitor)
        if (method, path) == ("POST", "/api/repos/move"):
            return self._move(incoming.json(), visitor)
        if (method, path) == ("POST", "/api/validate-yaml"):
            asked = incoming.json()
            warnings = refuse_bad_card(asked["content"], asked.get("repoType") or "model")
            return Answer({"errors": [], "warnings": [{"message": message} for message in warnings]})
        if method == "GET" and (found := re.fullmatch(r"/api/(model|dataset|space)s", path)):
            return self._list(incoming, visitor, found[1])
        if found := re.fullmatch(r"/api/(model|dataset|space)s/[^/]+", path):
            visitor.refuse_unseen(None)  # a name without a namespace
        if method in ("GET", "HEAD") and path == "/":
            return Answer(__doc__.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})
        if method == "GET" and (found := PAGE.fullmatch(path)):
            return self.reading.page(self._seen(visitor, found[1] or "model", found[2]))
        raise HubError(404, f"The stand-in does not answer {method} {path}")

    def _seen(self, visitor: Visitor, kind: str, repo_id: str) -> Repository:
        repository = self.repositories.find(kind, repo_id)
        visitor.refuse_unseen(repository)
        return repository

    def _on_repository(self, incoming: Incoming, visitor: Visitor, found: re.Match) -> Answer:
        kind, repo_id, verb, rest = found.groups()
        repository = self._seen(visitor, kind, repo_id)
        if verb in ("xet-write-token", "xet-read-token"):
            raise HubError(404, "The stand-in has no Xet; set HF_HUB_DISABLE_XET=1 before the client starts")
        handler = self._verbs.get((incoming.method, verb or ""))
        if handler is None:
            raise HubError(404, f"The stand-in does not answer {incoming.method} .../{verb}")
        return handler(incoming, visitor, repository, [unquote(part) for part in rest.split("/")] if rest else [])

    def _create(self, asked: dict, visitor: Visitor) -> Answer:
        visitor.refuse_signed_out()
        kind = asked.get("type") or "model"
        namespace, name = asked.get("organization") or visitor.user, asked["name"]
        rights = f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
        visitor.refuse_reader(namespace, rights)
        if not NAME.fullmatch(name):
            raise HubError(400, f"{name!r} cannot be the name of a repository")
        if kind == "space" and not asked.get("sdk"):
            raise HubError(400, "A Space needs an sdk")
        repo_id = f"{namespace}/{name}"
        output = {"url": f"{self.endpoint}/{PREFIX[kind]}{repo_id}", "name": repo_id}
        with self.repositories.lock:
            if self.repositories.find(kind, repo_id):
                raise HubError(409, f"You already created this {kind} repo", body=output)
            self.repositories.create(kind, repo_id, wants_private(asked), visitor.user, asked.get("sdk"))
        return Answer(output)

    def _owned(self, visitor: Visitor, kind: str, repo_id: str) -> Repository:
        repository = self._seen(visitor, kind, repo_id)
        visitor.refuse_reader(repo_id.split("/")[0], f"You don't have the rights to do this to {repo_id}")
        return repository

    def _delete(self, asked: dict, visitor: Visitor) -> Answer:
        repo_id = f"{asked.get('organization') or visitor.user}/{asked['name']}"
        self.repositories.delete(self._owned(visitor, asked.get("type") or "model", repo_id))
        return Answer({})

    def _move(self, asked: dict, visitor: Visitor) -> Answer:
        kind = asked.get("type") or "model"
        repository = self._owned(visitor, kind, asked["fromRepo"])
        visitor.refuse_reader(
            asked["toRepo"].split("/")[0], f"You don't have the rights to do this to {asked['toRepo']}"
        )
        if self.repositories.find(kind, asked["toRepo"]):
            raise HubError(409, f"{asked['toRepo']} is taken")
        self.repositories.move(repository, asked["toRepo"])
        return Answer({"url": f"{self.endpoint}/{PREFIX[kind]}{asked['toRepo']}"})

    def _list(self, incoming: Incoming, visitor: Visitor, kind: str) -> Answer:
        author, search = (incoming.query.get(name, [""])[0] for name in ("author", "search"))
        found = [
            self.reading.describe(repository, "main")
            for repository in self.repositories.all(kind)
            if visitor.sees(repository) and repository.id.startswith(f"{author}/" if author else "")
            if search.lower() in repository.id.lower()
        ]
        limit = int(incoming.query.get("limit", [len(found)])[0])
        return Answer(found[:limit])
