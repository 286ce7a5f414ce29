"""What the stand-in Hub tells of a repository: info, trees, history, refs and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import parse_qs, quote, urlencode

from tests.hub.accounts import Visitor
from tests.hub.cards import front_matter
from tests.hub.http import Answer, Incoming
from tests.hub.large_files import LargeFiles
from tests.hub.repositories import Entry, HubError, Repository

PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


class Reading:
    """
    Args:
        large_files (`LargeFiles`): Sign the addresses of large files.
        page_size (`int`): Entries a page of a listing; a `Link` header leads to the next.
    """

    def __init__(self, large_files: LargeFiles, page_size: int):
        self.large_files, self.page_size = large_files, page_size
        self.url = ""

    def info(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`GET /api/{kind}s/{id}[/revision/{revision}]`; `expand` asks for some fields alone."""
        fields = self.describe(repository, rest[0] if rest else "main", "blobs" in incoming.query)
        wanted = incoming.query.get("expand", []) + incoming.query.get("expand[]", [])
        if wanted:
            fields = {key: value for key, value in fields.items() if key in ("_id", "id", *wanted)}
        return Answer(fields)

    def describe(self, repository: Repository, revision: str, blobs: bool = False) -> dict:
        commit = repository.resolve(revision)
        files = [entry for entry in repository.tree(commit).values() if entry.kind == "file"]
        card = self._card(repository, commit)
        tags = card.get("tags") if isinstance(card.get("tags"), list) else []
        fields = {
            "_id": repository.id,
            "id": repository.id,
            "author": repository.id.split("/")[0],
            "sha": commit,
            "lastModified": repository.log(commit, limit=1)[0].date,
            "private": repository.settings["private"],
            "gated": repository.settings["gated"],
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [*tags, *([f"license:{card['license']}"] if isinstance(card.get("license"), str) else [])],
            "cardData": card,
            "siblings": [self._sibling(entry, blobs) for entry in files],
        }
        if repository.kind == "model":
            config = repository.tree(commit).get("config.json")
            known = json.loads(repository.read(config)) if config else {}
            fields["config"] = {key: known[key] for key in ("architectures", "model_type", "auto_map") if key in known}
            for key in ("library_name", "pipeline_tag"):
                if card.get(key):
                    fields[key] = card[key]
        if repository.kind == "space":
            fields["sdk"] = card.get("sdk", repository.settings["sdk"])
        return fields

    @staticmethod
    def _card(repository: Repository, commit: str) -> dict:
        readme = repository.tree(commit).get("README.md")
        return front_matter(repository.read(readme).decode()) if readme else {}

    @staticmethod
    def _sibling(entry: Entry, blobs: bool) -> dict:
        if not blobs:
            return {"rfilename": entry.path}
        known = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
        if entry.lfs_oid:
            known["lfs"] = {"sha256": entry.lfs_oid, "size": entry.size, "pointerSize": entry.pointer_size}
        return known

    def tree(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`GET .../tree/{revision}[/{path}]?recursive&expand`"""
        commit, below = repository.resolve(rest[0]), "/".join(rest[1:])
        entries = repository.tree(commit)
        if below and (below not in entries or entries[below].kind != "directory"):
            raise HubError(
                404, f'{below} does not exist on "{rest[0]}"', "EntryNotFound", headers={"X-Repo-Commit": commit}
            )
        start = f"{below}/" if below else ""
        inside = [entry for path, entry in entries.items() if path.startswith(start)]
        if _said(incoming, "recursive") != "true":
            inside = [entry for entry in inside if "/" not in entry.path[len(start) :]]
        expand = _said(incoming, "expand") == "true"
        page, headers = self._page(incoming, inside)
        return Answer([self._listed(repository, commit, entry, expand) for entry in page], headers=headers)

    def paths_info(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`POST .../paths-info/{revision}` with a form; paths that are not there are left out."""
        body = incoming.body.read().decode()
        is_json = "json" in incoming.headers.get("Content-Type", "")
        asked = json.loads(body) if is_json else parse_qs(body)
        commit = repository.resolve(rest[0])
        expand = str(asked.get("expand", [False])[0] if not is_json else asked.get("expand")).lower() == "true"
        found = [repository.tree(commit).get(path.strip("/")) for path in asked.get("paths", [])]
        return Answer([self._listed(repository, commit, entry, expand) for entry in found if entry])

    @staticmethod
    def _listed(repository: Repository, commit: str, entry: Entry, expand: bool) -> dict:
        known = {"type": entry.kind, "oid": entry.oid, "size": entry.size, "path": entry.path}
        if entry.lfs_oid:
            known["lfs"] = {"oid": entry.lfs_oid, "size": entry.size, "pointerSize": entry.pointer_size}
        if expand:
            last = repository.log(commit, entry.path, limit=1)[0]
            known["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
        return known

    def _page(self, incoming: Incoming, items: list) -> tuple[list, dict]:
        first = int(_said(incoming, "cursor") or 0)
        following = first + self.page_size
        if following >= len(items):
            return items[first:], {}
        query = urlencode({**{key: values[0] for key, values in incoming.query.items()}, "cursor": following})
        return items[first:following], {"Link": f'<{self.url}{incoming.path}?{query}>; rel="next"'}

    def commits(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`GET .../commits/{revision}`"""
        page, headers = self._page(incoming, repository.log(repository.resolve(rest[0])))
        output = [
            {"id": c.oid, "title": c.title, "message": c.message, "authors": [{"user": c.author}], "date": c.date}
            for c in page
        ]
        return Answer(output, headers=headers)

    def refs(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`GET .../refs?include_prs`"""
        output = {"branches": [], "converts": [], "tags": []}
        if "include_prs" in incoming.query:
            output["pullRequests"] = []
        groups = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
        for ref, commit in repository.refs().items():
            for start, group in groups.items():
                if ref.startswith(start) and group in output:
                    output[group].append({"name": ref.removeprefix(start), "ref": ref, "targetCommit": commit})
        return Answer(output)

    def auth_check(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`GET .../auth-check[/write]`"""
        visitor.refuse_gated(repository)
        if list(rest) == ["write"]:
            visitor.refuse_reader(repository.id.split("/")[0], "You have no write access to this repository")
        return Answer({})

    def file(self, visitor: Visitor, repository: Repository, revision: str, path: str) -> Answer:
        """`GET|HEAD /{prefix}{id}/resolve/{revision}/{path}`: the content, or for a large file where it lies."""
        visitor.refuse_gated(repository)
        commit = repository.resolve(revision)
        headers = {"X-Repo-Commit": commit}
        entry = repository.tree(commit).get(path)
        if entry is None or entry.kind != "file":
            raise HubError(404, "Entry not found", "EntryNotFound", headers=headers)
        if entry.lfs_oid is None:
            headers |= {"ETag": f'"{entry.oid}"', "Content-Type": "text/plain; charset=utf-8"}
            return Answer(repository.read(entry), headers=headers)
        headers |= {
            "Location": self.large_files.signed(self.large_files.storage_url, "download", repository, entry.lfs_oid),
            "X-Linked-Etag": f'"{entry.lfs_oid}"',
            "X-Linked-Size": str(entry.size),
            "ETag": f'"{entry.oid}"',
        }
        return Answer(b"", 302, headers)

    def page(self, repository: Repository) -> Answer:
        """What a browser gets: the files and the card, as plain text."""
        commit = repository.resolve("main")
        tree = repository.tree(commit)
        access = "private" if repository.settings["private"] else "public"
        gate = f", gated ({repository.settings['gated']})" if repository.settings["gated"] else ""
        lines = [f"{repository.kind} {repository.id}: {access}{gate}, commit {commit}", ""]
        where = f"{self.url}/{PREFIX[repository.kind]}{repository.id}/resolve/main/"
        files = [entry for entry in tree.values() if entry.kind == "file"]
        lines += [f"{entry.size:>12,}  {where}{quote(entry.path)}" for entry in files]
        card = repository.read(tree["README.md"]).decode() if "README.md" in tree else ""
        return Answer("\n".join([*lines, "", card]).encode(), headers={"Content-Type": "text/plain; charset=utf-8"})


def _said(incoming: Incoming, name: str) -> str:
    return incoming.query.get(name, [""])[0].lower()
