"""A repository on the Hub: its name, who may write to it, what it is and holds now, and making it private or gated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem, RepoFile, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hub_medsyn.publishing.hub_errors import PublishError
from hub_medsyn.publishing.retrying import retry
from medsyn.errors import UserError

GATED = "manual"  # "auto" lets everybody in who asks


@dataclass(frozen=True)
class Repository:
    """
    A repository as it was when it was looked at; without `sha` there was none.

    Attributes:
        repo_id (`str`): `<org>/<name>`.
        repo_type (`str`): `dataset`, `model` or `space`.
        sha (`str`, *optional*): The last commit of its main branch.
        private (`bool`), gated (`bool`): Who sees it. Gated means that a person approves each request.
        files (`Mapping[str, RepoFile]`): What it holds.
    """

    repo_id: str
    repo_type: str
    sha: str | None = None
    private: bool = False
    gated: bool = False
    files: Mapping[str, RepoFile] = field(default_factory=dict)

    def read(self, path: str) -> str | None:
        """The text of one of its files, `None` where it has none of that name."""
        if path not in self.files:
            return None
        local = retry(lambda: hf_hub_download(self.repo_id, path, repo_type=self.repo_type, revision=self.sha))
        return Path(local).read_text(encoding="utf-8")

    def parquet_schema(self, path: str) -> pa.Schema:
        """The schema of one of its Parquet files; only the file's end is fetched."""
        name = f"{self.repo_type}s/{self.repo_id}@{self.sha}/{path}"

        def read() -> pa.Schema:
            with HfFileSystem().open(name, block_size=2**20) as file:
                return pq.read_schema(file)

        return retry(read)

    def contents(self) -> dict[str, str]:
        """What people put into it: each file's hash. Every new repository has a `.gitattributes`."""
        return {path: file.blob_id for path, file in self.files.items() if path != ".gitattributes"}


def check_repo_id(repo_id: str) -> None:
    """
    Raises:
        UserError: If it is not `<org>/<name>`, in letters that the Hub takes.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo {repo_id!r} cannot be on the Hub: {error}") from None
    if "/" not in repo_id:
        raise UserError(f"--repo {repo_id!r} names no owner; write <org>/<name>, such as your-name/{repo_id}")


def check_token(api: HfApi, repo_id: str, create_pr: bool) -> None:
    """
    Raises:
        PublishError: If the token is known not to be allowed to write there.
    """
    me = retry(api.whoami)  # raises where there is no token or it is not valid
    role = me["auth"]["accessToken"]["role"]
    if role == "read":
        raise PublishError(
            f"the token of {me['name']} may only read; make one that may write at {api.endpoint}/settings/tokens, "
            "then `hf auth login`, or set HF_TOKEN"
        )
    namespace = repo_id.partition("/")[0]
    owned = [me["name"], *(organization["name"] for organization in me["orgs"])]
    if role == "write" and namespace not in owned and not create_pr:  # fine-grained tokens need not tell their orgs
        raise PublishError(
            f"the token is of {me['name']}, no member of {namespace}; publish under {' or '.join(owned)}, or "
            "open a pull request with --create-pr"
        )


def read_repository(api: HfApi, repo_id: str, repo_type: str) -> Repository:
    """The repository as it is now."""
    try:
        info = retry(lambda: api.repo_info(repo_id, repo_type=repo_type))
    except RepositoryNotFoundError:
        return Repository(repo_id, repo_type)
    tree = retry(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=info.sha, repo_type=repo_type)))
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    gated = repo_type != "space" and info.gated == GATED
    return Repository(repo_id, repo_type, info.sha, bool(info.private), gated, files)


def restrict_access(api: HfApi, repository: Repository, private: bool, gated: bool) -> Repository:
    """
    Creates the repository if there is none, and makes it private and gated where that is asked for and it is not.

    Returns:
        `Repository`: As it is afterwards, read back.

    Raises:
        PublishError: If it is not what was asked for.
    """
    repo_id, repo_type = repository.repo_id, repository.repo_type
    if repository.sha is None:
        sdk = "gradio" if repo_type == "space" else None
        tries = count()
        retry(
            lambda: api.create_repo(
                repo_id,
                repo_type=repo_type,
                private=True if private else None,
                space_sdk=sdk,
                exist_ok=next(tries) > 0,  # the first try may have arrived
            )
        )
    elif private and not repository.private:
        retry(lambda: api.update_repo_settings(repo_id, repo_type=repo_type, private=True))
    if gated and not repository.gated:
        retry(lambda: api.update_repo_settings(repo_id, repo_type=repo_type, gated=GATED))
    now = read_repository(api, repo_id, repo_type)
    for asked, is_so, name in ((private, now.private, "private"), (gated, now.gated, "gated")):
        if asked and not is_so:
            raise PublishError(
                f"{repo_id} was to be {name} and the Hub says that it is not; nothing was sent. See its settings at "
                f"{api.endpoint}"
            )
    return now
