"""Two habits of gradio that a page open to everybody cannot have, changed where gradio has no setting for them."""

from __future__ import annotations

import secrets

import gradio as gr
from gradio import processing_utils, route_utils


class Apart(route_utils.GradioUploadFile):
    """An uploaded file whose place is of its own.

    Gradio names the place after the content: two people who upload one image then share a file, and when the first is
    answered the second's is gone.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sha.update(secrets.token_bytes(16))


async def refuse_address(url: str, cache_dir: str) -> str:
    """Refuses an address where gradio would fetch what lies there, as an image or as any other value."""
    raise gr.Error("Give the file itself: this page fetches nothing from other servers.", print_exception=False)


def change_habits() -> None:
    """Makes gradio use the two; pages that run already change too."""
    route_utils.GradioUploadFile = Apart
    processing_utils.async_ssrf_protected_download = refuse_address
