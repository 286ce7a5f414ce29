"""Large files of the stand-in Hub: LFS batches on one origin, signed uploads and downloads on another."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import shutil
from pathlib import Path

from tests.hub.http import Answer, Incoming
from tests.hub.repositories import HubError, Repositories, Repository

PLACE = re.compile(r"/(upload|download|complete)/(model|dataset|space)/([^/]+/[^/]+)/([0-9a-f]{64})")


class LargeFiles:
    """
    Args:
        repositories (`Repositories`): Whose files these are. As on the Hub a file belongs to a repository: to know a
            hash is no way to read it from elsewhere.
        part_size (`int`): Bytes; larger files are sent in parts of this size.
    """

    def __init__(self, repositories: Repositories, part_size: int):
        self.repositories, self.part_size = repositories, part_size
        self.secret = secrets.token_bytes(16)
        self.waiting = repositories.folder / "uploads"
        shutil.rmtree(self.waiting, ignore_errors=True)
        self.waiting.mkdir(parents=True)
        self.hub_url = self.storage_url = ""

    def signed(self, base: str, action: str, repository: Repository, oid: str, part: int = 0) -> str:
        path = f"/{action}/{repository.kind}/{repository.id}/{oid}"
        return f"{base}{path}?part={part}&signature={self._signature(path, part)}"

    def _signature(self, path: str, part: int) -> str:
        return hmac.new(self.secret, f"{path} {part}".encode(), hashlib.sha256).hexdigest()

    def _checked(self, incoming: Incoming) -> tuple[str, Repository, str, int]:
        found = PLACE.fullmatch(incoming.path)
        part = int(incoming.query.get("part", ["0"])[0])
        given = incoming.query.get("signature", [""])[0]
        if not found or not hmac.compare_digest(given, self._signature(incoming.path, part)):
            raise HubError(403, "The signature of this address is not valid")
        repository = self.repositories.find(found[2], found[3])
        if repository is None:
            raise HubError(404, "The repository is gone")
        return found[1], repository, found[4], part

    def batch(self, repository: Repository, asked: dict) -> Answer:
        """Tells where to send what is not here yet."""
        objects = []
        for entry in asked.get("objects", []):
            oid, size = entry["oid"], entry["size"]
            if not re.fullmatch(r"[0-9a-f]{64}", oid):
                error = {"code": 422, "message": f"{oid} is no sha256"}
                objects.append({"oid": oid, "size": size, "error": error})
                continue
            answer = {"oid": oid, "size": size, "authenticated": True}
            if not repository.object_file(oid).is_file():
                if size > self.part_size and "multipart" in asked.get("transfers", []):
                    parts = range(1, -(-size // self.part_size) + 1)
                    header = {str(n): self.signed(self.storage_url, "upload", repository, oid, n) for n in parts}
                    href = self.signed(self.hub_url, "complete", repository, oid)
                    upload = {"href": href, "header": {"chunk_size": str(self.part_size), **header}}
                else:
                    upload = {"href": self.signed(self.storage_url, "upload", repository, oid)}
                prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
                verify = {"href": f"{self.hub_url}/{prefix}{repository.id}.git/info/lfs/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        content_type = {"Content-Type": "application/vnd.git-lfs+json"}
        return Answer({"transfer": "basic", "objects": objects}, headers=content_type)

    def verify(self, repository: Repository, asked: dict) -> Answer:
        place = repository.object_file(asked["oid"])
        if not place.is_file() or place.stat().st_size != asked["size"]:
            raise HubError(422, f"No object {asked['oid']} of {asked['size']} bytes has arrived")
        return Answer({})

    def complete(self, incoming: Incoming) -> Answer:
        """Puts the parts of an upload together."""
        action, repository, oid, _ = self._checked(incoming)
        if action != "complete":
            raise HubError(403, "The signature of this address is not valid")
        whole = self.waiting / f"{oid}.{secrets.token_hex(4)}"
        parts = [(self._part(repository, oid, part["partNumber"]), part["etag"]) for part in incoming.json()["parts"]]
        with whole.open("wb") as file:
            for place, etag in parts:
                if not place.is_file() or etag.strip('"') != hashlib.md5(place.read_bytes()).hexdigest():
                    raise HubError(400, "A part has not arrived")
                file.write(place.read_bytes())
        repository.keep_object(oid, whole)
        for place, _ in parts:
            place.unlink()
        return Answer({"success": True})

    def _part(self, repository: Repository, oid: str, part: int) -> Path:
        name = hashlib.sha256(f"{repository.kind} {repository.id} {oid} {part}".encode()).hexdigest()
        return self.waiting / name

    def storage(self, incoming: Incoming) -> Answer:
        """The other origin: like S3 it takes signed addresses alone, and refuses a request that brings a token too."""
        if incoming.headers.get("Authorization"):
            raise HubError(400, "Only one auth mechanism allowed: the token was sent to another origin than the Hub")
        action, repository, oid, part = self._checked(incoming)
        if action == "download" and incoming.method in ("GET", "HEAD"):
            place = repository.object_file(oid)
            if not place.is_file():
                raise HubError(404, "No such object")
            return Answer(place, headers={"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"})
        if action == "upload" and incoming.method == "PUT":
            received = self.waiting / secrets.token_hex(16)
            incoming.body.save(received)
            if part:
                etag = hashlib.md5(received.read_bytes()).hexdigest()
                received.replace(self._part(repository, oid, part))
                return Answer(headers={"ETag": f'"{etag}"'})
            repository.keep_object(oid, received)
            return Answer()
        raise HubError(405, f"{incoming.method} of a signed address for {action}")
