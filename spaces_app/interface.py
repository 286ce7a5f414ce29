"""The page as a whole: a head, five tabs and the endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradio as gr

from spaces_app.endpoints import add_endpoints
from spaces_app.guard.gradio_patches import change_habits
from spaces_app.session import STANDING, Session
from spaces_app.tabs import about as tab_about
from spaces_app.tabs import find as tab_find
from spaces_app.tabs import make as tab_make
from spaces_app.tabs import read as tab_read
from spaces_app.tabs import where as tab_where

if TYPE_CHECKING:
    from spaces_app.workbench import Workbench

TITLE = "medsyn: read, find and make chest radiographs"
WAITING = 100  # events that may stand in the queue


def build(bench: Workbench, seed: int = 0) -> gr.Blocks:
    """
    The page.

    Args:
        bench ([`Workbench`]): What it shows.
        seed (`int`, *optional*, defaults to 0): The first seed that the tab Make proposes.

    Returns:
        `gr.Blocks`: With its queue; `launch(**serving())` serves it.
    """
    change_habits()
    session = Session(bench, seed)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(
            '<header class="head"><h1>medsyn</h1><p>Chest images and the words for them: read, point, find, make.</p>'
            f'<p class="badge">{STANDING}</p></header>'
        )
        chosen = gr.State(None, time_to_live=3600)
        with gr.Tabs(elem_id="tabs") as tabs:
            tab_read.add(session, chosen)
            tab_where.add(session, chosen)
            tab_find.add(session, chosen)
            tab_make.add(session, chosen, tabs)
            tab_about.add(session)
        add_endpoints(session)

        def forget(request: gr.Request) -> None:
            """Drops what gradio keeps of a visitor who left, which it does by itself when 200 others came."""
            page.state_holder.session_data.pop(request.session_hash, None)

        page.unload(forget)
    return page.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)
