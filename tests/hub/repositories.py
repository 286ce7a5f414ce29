"""Git repositories of the stand-in Hub: real commits, refs and trees in bare repositories, large files beside them."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("model", "dataset", "space")
LARGE = 10 * 2**20  # bytes; from here on any file is a large one
POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
FOUND_IN_EVERY_KIND = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib model msgpack npy npz onnx parquet pb pickle pkl pt pth rar \
safetensors tar tflite tgz wasm xz zip zst"
)
FOUND_IN_DATASETS = "pcm sam raw aac flac mp3 ogg wav bmp gif png tiff jpg jpeg webp mp4 webm"


class HubError(Exception):
    """
    What the Hub refuses.

    Args:
        status (`int`): Of HTTP.
        message (`str`): For a person; goes out as `X-Error-Message` and in the body.
        code (`str`, *optional*): `X-Error-Code`, by which the clients choose their exception.
        body (`dict`, *optional*): More for the body.
        headers (`dict`, *optional*): More headers.
    """

    def __init__(self, status: int, message: str, code: str | None = None, body=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body = {"error": message, **(body or {})}
        self.headers = headers or {}


@dataclass(frozen=True)
class Entry:
    """A file or directory; `oid` is git's, `lfs_oid` the sha256 of a large file, `size` that of the content."""

    path: str
    kind: str
    oid: str
    size: int
    lfs_oid: str | None = None
    pointer_size: int = 0


@dataclass(frozen=True)
class Commit:
    oid: str
    author: str
    date: str
    title: str
    message: str


class Repository:
    """
    A bare git repository with its large files (`lfs/objects/aa/bb/<sha256>`, as git-lfs lays them out) and settings.

    Args:
        folder (`Path`): An existing repository, made by [`Repository.create`].
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock = threading.RLock()
        self.settings = json.loads((folder / "hub.json").read_text(encoding="utf-8"))
        self.kind, self.id = self.settings["kind"], self.settings["id"]
        self._trees: dict[str, dict[str, Entry]] = {}

    @classmethod
    def create(cls, folder: Path, kind: str, repo_id: str, private: bool, author: str, sdk: str | None = None):
        """Starts with one commit, as on the Hub: `.gitattributes`, and a card for a Space."""
        folder.mkdir(parents=True)
        settings = {"kind": kind, "id": repo_id, "private": private, "gated": False, "let_in": [], "sdk": sdk}
        (folder / "hub.json").write_text(json.dumps(settings), encoding="utf-8")
        repository = cls(folder)
        repository.git("init", "--bare", "--quiet", "--initial-branch=main")
        suffixes = FOUND_IN_EVERY_KIND.split() + (FOUND_IN_DATASETS.split() if kind == "dataset" else [])
        attributes = "".join(attribute_line(f"*.{suffix}") for suffix in suffixes)
        files = {".gitattributes": attributes.encode()}
        if kind == "space":
            front = f"title: {repo_id.split('/')[1]}\nemoji: 🚀\ncolorFrom: red\ncolorTo: blue\nsdk: {sdk}\n"
            files["README.md"] = f"---\n{front}---\n".encode()
        repository.commit("refs/heads/main", None, author, "initial commit", "", list(files.items()))
        return repository

    def git(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
        command = ["git", f"--git-dir={self.folder}", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, check=True, env={**os.environ, **settings}
        ).stdout

    def save_settings(self, **changes) -> None:
        self.settings.update(changes)
        (self.folder / "hub.json").write_text(json.dumps(self.settings), encoding="utf-8")

    def refs(self) -> dict[str, str]:
        """Full ref -> commit; annotated tags are followed."""
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname) %(*objectname)").decode().splitlines()
        return {line.split()[0]: line.split()[-1] for line in lines}

    def resolve(self, revision: str) -> str:
        """The commit of a branch, tag, ref or (abbreviated) commit id; raises [`HubError`] 404."""
        refs = self.refs()
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in refs:
                return refs[ref]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            try:
                return self.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
            except subprocess.CalledProcessError as error:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound") from error
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def tree(self, commit: str) -> dict[str, Entry]:
        """All files and directories of a commit by path, sorted."""
        if commit not in self._trees:
            listed = []
            for line in self.git("ls-tree", "-r", "-t", "-l", "-z", commit).decode().split("\0")[:-1]:
                (_, kind, oid, size), path = line.split("\t")[0].split(), line.split("\t", 1)[1]
                listed.append((path, "directory" if kind == "tree" else "file", oid, 0 if size == "-" else int(size)))
            small = sorted({oid for _, kind, oid, size in listed if kind == "file" and 120 <= size <= 150})
            pointers = {oid: POINTER.fullmatch(content) for oid, content in self._blobs(small).items()}
            tree = {}
            for path, kind, oid, size in sorted(listed):
                pointer = pointers.get(oid)
                if pointer:
                    tree[path] = Entry(path, kind, oid, int(pointer[2]), pointer[1].decode(), size)
                else:
                    tree[path] = Entry(path, kind, oid, size)
            self._trees[commit] = tree
        return self._trees[commit]

    def _blobs(self, oids: Sequence[str]) -> dict[str, bytes]:
        out, contents, start = self.git("cat-file", "--batch", stdin="\n".join(oids).encode()), {}, 0
        for oid in oids:
            end = out.index(b"\n", start)
            size = int(out[start:end].split()[2])
            contents[oid] = out[end + 1 : end + 1 + size]
            start = end + size + 2
        return contents

    def read(self, entry: Entry) -> bytes:
        """A file's content, that of a large file too."""
        return (
            self.object_file(entry.lfs_oid).read_bytes() if entry.lfs_oid else self.git("cat-file", "blob", entry.oid)
        )

    def log(self, commit: str, path: str | None = None, limit: int | None = None) -> list[Commit]:
        only = ["--", path] if path else []
        number = [f"-{limit}"] if limit else []
        out = self.git("log", "--format=%H%x00%an%x00%ct%x00%s%x00%b%x01", *number, commit, *only).decode()
        commits = (part.strip("\n").split("\0") for part in out.split("\x01")[:-1])
        return [
            Commit(oid, author, stamp(int(when)), title, body.strip()) for oid, author, when, title, body in commits
        ]

    def commit(self, ref: str, parent: str | None, author: str, title: str, description: str, changes) -> str:
        """
        Writes one commit and moves `ref` to it.

        Args:
            changes (`list[tuple[str, bytes | None]]`): Path and content in the order in which they are applied; `None`
                deletes a file or a whole directory.
        """
        who = f"{author} <{author}@users.invalid> {int(time.time())} +0000"
        message = f"{title}\n\n{description}".strip().encode()
        lines = [f"commit {ref}\nauthor {who}\ncommitter {who}\ndata {len(message)}\n".encode(), message, b"\n"]
        if parent is not None:
            lines.append(f"from {parent}\n".encode())
        for path, content in changes:
            if content is None:
                lines.append(f"D {path}\n".encode())
            else:
                lines += [f"M 100644 inline {path}\ndata {len(content)}\n".encode(), content, b"\n"]
        self.git("fast-import", "--quiet", "--force", stdin=b"".join([*lines, b"done\n"]))
        return self.refs()[ref]

    def object_file(self, oid: str) -> Path:
        return self.folder / "lfs" / "objects" / oid[:2] / oid[2:4] / oid

    def keep_object(self, oid: str, received: Path) -> None:
        """Moves a received file to its place, after its hash was checked; raises [`HubError`] 400 otherwise."""
        digest = hashlib.sha256()
        with received.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != oid:
            received.unlink()
            raise HubError(400, f"The content has sha256 {digest.hexdigest()}, not {oid}")
        place = self.object_file(oid)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(received, place)

    def attributes(self, commit: str) -> str:
        entry = self.tree(commit).get(".gitattributes")
        return self.read(entry).decode() if entry else ""

    def ignored(self, paths: Sequence[str], rules: str) -> set[str]:
        """Which paths a `.gitignore` of these rules leaves out, as git itself says."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / ".gitignore").write_text(rules, encoding="utf-8")
            try:
                asked = "\0".join(paths).encode()
                work_tree = f"--work-tree={folder}"
                out = self.git(
                    "-c", "core.bare=false", work_tree, "check-ignore", "--no-index", "-z", "--stdin", stdin=asked
                )
            except subprocess.CalledProcessError as error:
                if error.returncode == 1:  # git's way to say "none"
                    return set()
                raise
        return set(out.decode().split("\0")[:-1])


def attribute_line(pattern: str) -> str:
    return f"{pattern.replace(' ', '[[:space:]]')} filter=lfs diff=lfs merge=lfs -text\n"


def is_large(path: str, attributes: str) -> bool:
    """Whether `.gitattributes` send a path to the store of large files."""
    for line in attributes.splitlines():
        pattern, *rest = line.split() or [""]
        name = path if "/" in pattern else path.rsplit("/", 1)[-1]
        if "filter=lfs" in rest and fnmatch.fnmatchcase(name, pattern.replace("[[:space:]]", " ")):
            return True
    return False


def pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def stamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


class Repositories:
    """All repositories below a folder: `<folder>/<kind>s/<namespace>/<name>.git`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock = threading.RLock()
        self._open: dict[Path, Repository] = {}

    def _place(self, kind: str, repo_id: str) -> Path:
        return self.folder / f"{kind}s" / f"{repo_id}.git"

    def find(self, kind: str, repo_id: str) -> Repository | None:
        place = self._place(kind, repo_id)
        with self.lock:
            if place not in self._open and (place / "hub.json").is_file():
                self._open[place] = Repository(place)
            return self._open.get(place)

    def create(self, kind: str, repo_id: str, private: bool, author: str, sdk: str | None = None) -> Repository:
        with self.lock:
            place = self._place(kind, repo_id)
            self._open[place] = Repository.create(place, kind, repo_id, private, author, sdk)
            return self._open[place]

    def delete(self, repository: Repository) -> None:
        with self.lock:
            self._open.pop(repository.folder)
            shutil.rmtree(repository.folder)

    def move(self, repository: Repository, repo_id: str) -> None:
        with self.lock:
            place = self._place(repository.kind, repo_id)
            place.parent.mkdir(parents=True, exist_ok=True)
            repository.save_settings(id=repo_id)
            self._open.pop(repository.folder)
            repository.folder.rename(place)

    def all(self, kind: str) -> list[Repository]:
        found = sorted((self.folder / f"{kind}s").glob("*/*.git"))
        return [self.find(kind, f"{place.parent.name}/{place.stem}") for place in found]
