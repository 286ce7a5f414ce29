"""One policy for every call of the Hub: a busy Hub is asked again, after as long as it asks for, up to a limit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hub_medsyn.publishing.hub_errors import cause_of, is_passing, status_of

Result = TypeVar("Result")
ATTEMPTS = 6
LONGEST_WAIT = 300  # seconds that one call waits in all


def retry(call: Callable[[], Result], say: Callable[[str], None] = print) -> Result:
    """Returns what `call` returns; calls it again where the Hub is busy or the connection broke.

    A `Retry-After`, in seconds or as a date, and the reset of a `RateLimit` are heeded. Without them the wait doubles
    from one second.

    Args:
        call (`Callable`): A request that may be made twice.
        say (`Callable[[str], None]`, *optional*): Is called with a sentence before each wait.

    Raises:
        HTTPError, OSError: As the call raised it last, after `ATTEMPTS`, where the waits would be longer than
            `LONGEST_WAIT` in all, or at once where another try cannot help.
    """
    waited = 0.0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except (HTTPError, OSError, RuntimeError) as error:
            cause = cause_of(error)
            asked = asked_to_wait(cause)
            wait = 2.0 ** (attempt - 1) if asked is None else asked
            nobody_there = "ConnectError" in type(cause).__name__
            if not is_passing(cause) or nobody_there or attempt == ATTEMPTS or waited + wait > LONGEST_WAIT:
                raise
            status = status_of(cause)
            what = "the connection broke" if status is None else f"{constants.ENDPOINT} answers {status}"
            say(f"{what}; trying again in {wait:.0f} s")
            time.sleep(wait)
            waited += wait
    raise AssertionError("the last attempt returns or raises")


def asked_to_wait(error: BaseException) -> float | None:
    """The seconds that a busy Hub asks to wait, `None` where it does not say."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    if response is None:
        return None
    value = (response.headers.get("retry-after") or "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
        return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())
    reset = re.search(r"\bt=(\d+)", response.headers.get("ratelimit") or "")
    return float(reset[1]) if reset else None
