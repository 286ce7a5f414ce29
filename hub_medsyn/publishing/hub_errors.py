"""What the Hub's answers mean, in sentences that say what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

AGAIN = "run the same command again: what arrived is not sent again"
PASSING = (408, 429, 500, 502, 503, 504)  # statuses that a later try may not meet


class PublishError(OSError):
    """Publishing failed; the message says why and what to do. It holds no text of reports."""


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error of the client, if there is one."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return None if response is None else response.status_code


def is_passing(error: BaseException) -> bool:
    """Whether another try may succeed: the connection broke, or the Hub was busy."""
    status = status_of(error)
    return isinstance(error, HTTPError) if status is None else status in PASSING


def cause_of(error: BaseException) -> BaseException:
    """What went wrong while a file was sent, which the client wraps in a RuntimeError."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def explain(error: BaseException, repo_id: str, repo_type: str) -> str | None:
    """
    One sentence about an error of the Hub's client, or `None` where it is none.

    Args:
        error (`BaseException`): What the client raised.
        repo_id (`str`): The repository, `<org>/<name>`.
        repo_type (`str`): `dataset`, `model` or `space`.
    """
    endpoint, namespace = constants.ENDPOINT, repo_id.partition("/")[0]
    tokens = f"make a token that may write at {endpoint}/settings/tokens, then `hf auth login`, or set HF_TOKEN"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token: {tokens}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that the Hub is not asked; unset it to publish"
    if isinstance(error, ConnectionError) and "xet" in str(error):
        return f"{endpoint} does not take files by Xet; set HF_HUB_DISABLE_XET=1 and {AGAIN}"
    status = status_of(error)
    if status is None:
        if isinstance(error, HTTPError | ConnectionError):
            return f"the connection to {endpoint} broke ({type(error).__name__}); {AGAIN}"
        return None
    said = " ".join((error.server_message or "").split())
    quoted = f" ({said})" if said else ""
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no {repo_type} {repo_id} at {endpoint}, or this token may not see it"
    if status == 401:
        return f"the token is not valid at {endpoint}, or it has expired: {tokens}"
    if status == 402:
        return f"{endpoint} asks for a subscription or for credits to hold {repo_id}{quoted}"
    if status == 403:
        return (
            f"the token may not write to {repo_type} {repo_id}{quoted}; use a token that may write, of a member of "
            f"{namespace}, or open a pull request with --create-pr"
        )
    if status == 409:
        return f"{repo_id} is taken by a repository that this token may not see{quoted}; choose another --repo"
    if status == 429:
        wait = error.response.headers.get("retry-after", "").strip() if isinstance(error, HfHubHTTPError) else ""
        wait = f"wait {wait} s" if wait.isdigit() else "wait a few minutes"
        return f"{endpoint} has been asked too often; {wait} and {AGAIN}"
    if status in PASSING:
        return f"{endpoint} answers {status}{quoted}; {AGAIN}"
    return f"{endpoint} refuses with {status}{quoted}"


@contextmanager
def as_publish_errors(repo_id: str, repo_type: str) -> Iterator[None]:
    """
    Raises:
        PublishError: For an error of the Hub's client inside the block; what it means and what to do.
    """
    try:
        yield
    except PublishError:
        raise
    except (HTTPError, OSError, RuntimeError) as error:
        sentence = explain(cause_of(error), repo_id, repo_type)
        if sentence is None:
            raise
        raise PublishError(sentence) from error
