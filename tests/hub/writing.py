"""What the stand-in Hub lets a client change in a repository: commits, branches, tags, settings."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence

from tests.hub.accounts import Visitor
from tests.hub.cards import card_problems
from tests.hub.http import Answer, Incoming
from tests.hub.reading import PREFIX
from tests.hub.repositories import LARGE, HubError, Repository, attribute_line, is_large, pointer

PATH = re.compile(r'(?!.*(^|/)(\.git|\.\.?)(/|$))[^/"\x00-\x1f][^\x00-\x1f]*(?<!/)')


class Writing:
    def __init__(self):
        self.url = ""

    def preupload(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`POST .../preupload/{revision}`: which files are large, which are ignored, and what is there already."""
        self._may_commit(incoming, visitor, repository)
        asked = incoming.json()
        commit = repository.resolve(rest[0])
        tree, attributes = repository.tree(commit), repository.attributes(commit)
        paths = [file["path"] for file in asked["files"]]
        rules = asked.get("gitIgnore")
        if rules is None and ".gitignore" in tree:
            rules = repository.read(tree[".gitignore"]).decode()
        ignored = repository.ignored(paths, rules) if rules else set()
        output = []
        for file in asked["files"]:
            path, entry = file["path"], tree.get(file["path"])
            large = file["size"] > LARGE or is_large(path, attributes)
            output.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": path in ignored,
                    "oid": None if entry is None or entry.kind != "file" else entry.lfs_oid or entry.oid,
                }
            )
        return Answer({"files": output, "commitOid": commit})

    @staticmethod
    def _may_commit(incoming: Incoming, visitor: Visitor, repository: Repository) -> bool:
        """Whether the commit opens a pull request, which whoever sees a repository may do."""
        pull_request = incoming.query.get("create_pr", ["0"])[0] in ("1", "true")
        visitor.refuse_signed_out()
        if pull_request and visitor.role == "write":
            return True
        visitor.refuse_reader(repository.id.split("/")[0], "Forbidden: your token may not write to this repository")
        return pull_request

    def commit(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`POST .../commit/{revision}[?create_pr=1]` with one JSON a line: a header and what is done, in order."""
        pull_request = self._may_commit(incoming, visitor, repository)
        lines = [json.loads(line) for line in incoming.body.read().splitlines() if line.strip()]
        if not lines or lines[0]["key"] != "header" or not lines[0]["value"].get("summary"):
            raise HubError(400, "A commit starts with a header that has a summary")
        header = lines[0]["value"]
        with repository.lock:
            refs = repository.refs()
            name = rest[0]
            ref = name if name.startswith("refs/") else f"refs/heads/{name}"
            if ref not in refs:
                raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
            parent = refs[ref]
            if header.get("parentCommit") and not parent.startswith(header["parentCommit"]):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            changes = self._changes(repository, parent, lines[1:])
            number = None
            if pull_request:
                number = 1 + max((int(name.split("/")[-1]) for name in refs if name.startswith("refs/pr/")), default=0)
                ref = f"refs/pr/{number}"
            oid = repository.commit(
                ref, parent, visitor.user, header["summary"], header.get("description", ""), changes
            )
        page = f"{self.url}/{PREFIX[repository.kind]}{repository.id}"
        output = {"success": True, "commitOid": oid, "commitUrl": f"{page}/commit/{oid}", "hookOutput": ""}
        if number is not None:
            output["pullRequestUrl"] = f"{page}/discussions/{number}"
        return Answer(output)

    def _changes(self, repository: Repository, parent: str, lines: list[dict]) -> list[tuple[str, bytes | None]]:
        tree, attributes = repository.tree(parent), repository.attributes(parent)
        changes, newly_large = [], ""
        for line in lines:
            key, value = line["key"], line["value"]
            path = value["path"].rstrip("/") if key == "deletedFolder" else value["path"]
            if not PATH.fullmatch(path):
                raise HubError(400, f"{path!r} cannot be a path in a repository")
            if key == "file":
                content = (
                    base64.b64decode(value["content"])
                    if value.get("encoding") == "base64"
                    else value["content"].encode()
                )
                if len(content) > LARGE:
                    raise HubError(400, f"{path} is larger than 10 MiB and has to be a large file")
                if path == "README.md":
                    refuse_bad_card(content.decode(), repository.kind)
                if path == ".gitattributes":
                    attributes = content.decode()
                changes.append((path, content))
            elif key == "lfsFile":
                place = repository.object_file(value["oid"])
                if not place.is_file():
                    raise HubError(400, f"LFS pointer {path} points to a file that does not exist: {value['oid']}")
                if not is_large(path, attributes + newly_large):
                    newly_large += attribute_line(path)
                changes.append((path, pointer(value["oid"], place.stat().st_size)))
            elif key in ("deletedFile", "deletedFolder"):
                kind = "file" if key == "deletedFile" else "directory"
                if path not in tree or tree[path].kind != kind:
                    raise HubError(404, f"A {kind} with this name doesn't exist: {path}", "EntryNotFound")
                changes.append((path, None))
            else:
                raise HubError(400, f"{key} is no operation of a commit")
        if newly_large:
            changes.append((".gitattributes", (attributes + newly_large).encode()))
        return changes

    def create_branch(
        self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]
    ) -> Answer:
        """`POST .../branch/{name}` with an optional `startingPoint`."""
        self._may_write(visitor, repository)
        return self._point(repository, f"refs/heads/{rest[0]}", incoming.json().get("startingPoint") or "main")

    def create_tag(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`POST .../tag/{revision}` with the tag's name."""
        self._may_write(visitor, repository)
        return self._point(repository, f"refs/tags/{incoming.json()['tag']}", rest[0])

    @staticmethod
    def _point(repository: Repository, ref: str, revision: str) -> Answer:
        with repository.lock:
            if ref in repository.refs():
                raise HubError(409, f"Reference already exists: {ref}")
            repository.git("update-ref", ref, repository.resolve(revision))
        return Answer({})

    def delete_branch(
        self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]
    ) -> Answer:
        """`DELETE .../branch/{name}`"""
        return self._forget(visitor, repository, f"refs/heads/{rest[0]}")

    def delete_tag(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`DELETE .../tag/{name}`"""
        return self._forget(visitor, repository, f"refs/tags/{rest[0]}")

    def _forget(self, visitor: Visitor, repository: Repository, ref: str) -> Answer:
        self._may_write(visitor, repository)
        if ref == "refs/heads/main":
            raise HubError(403, "The default branch cannot be deleted")
        with repository.lock:
            if ref not in repository.refs():
                raise HubError(404, f"{ref} does not exist", "RevisionNotFound")
            repository.git("update-ref", "-d", ref)
        return Answer({})

    @staticmethod
    def _may_write(visitor: Visitor, repository: Repository) -> None:
        visitor.refuse_reader(repository.id.split("/")[0], "Forbidden: your token may not write to this repository")

    def settings(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`PUT .../settings` with `visibility` (older clients: `private`) and `gated`."""
        self._may_write(visitor, repository)
        asked = incoming.json()
        changes = {}
        if asked.get("visibility") is not None or asked.get("private") is not None:
            changes["private"] = wants_private(asked)
        if "gated" in asked:
            if asked["gated"] not in (False, "auto", "manual"):
                raise HubError(400, f"gated is false, auto or manual, not {asked['gated']!r}")
            changes["gated"] = asked["gated"]
        repository.save_settings(**changes)
        return Answer({key: repository.settings[key] for key in ("private", "gated")})

    def let_in(self, incoming: Incoming, visitor: Visitor, repository: Repository, rest: Sequence[str]) -> Answer:
        """`POST .../user-access-request/grant` with `user`: opens a gated repository to one."""
        self._may_write(visitor, repository)
        if list(rest) != ["grant"]:
            raise HubError(404, "The stand-in knows user-access-request/grant alone")
        repository.save_settings(let_in=[*repository.settings["let_in"], incoming.json()["user"]])
        return Answer({})


def wants_private(asked: dict) -> bool:
    visibility = asked.get("visibility") or ("private" if asked.get("private") else "public")
    if visibility not in ("public", "private"):
        raise HubError(400, f"visibility is public or private, not {visibility!r}")
    return visibility == "private"


def refuse_bad_card(readme: str, kind: str) -> list[str]:
    """The warnings for a card; raises [`HubError`] 400 with the errors."""
    errors, warnings = card_problems(readme, kind)
    if errors:
        listed = {"errors": [{"message": message} for message in errors], "warnings": []}
        raise HubError(400, "Invalid metadata in README.md", body=listed)
    return warnings
