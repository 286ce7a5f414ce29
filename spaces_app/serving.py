"""How the page looks and how it is served: dark, with the system's fonts, and nothing but what this process made."""

from __future__ import annotations

import inspect
from pathlib import Path

import gradio as gr

from spaces_app.guard.headers import Guarded
from spaces_app.guard.uploads import MAX_BYTES

HERE = Path(__file__).parent
IN_HEAD = (("style", "style.css"), ("script", "page.js"))


def theme() -> gr.themes.Base:
    """One dark look, whatever the browser prefers; fonts of the system alone, so that nothing is fetched for them."""
    ink, quiet, line, panel, ground, blue = "#e8ecf0", "#aab5c0", "#38424c", "#1a2027", "#12161b", "#56b4e9"
    colours = {
        "body_background_fill": ground,
        "body_text_color": ink,
        "body_text_color_subdued": quiet,
        "background_fill_primary": panel,
        "background_fill_secondary": ground,
        "border_color_primary": line,
        "border_color_accent": blue,
        "border_color_accent_subdued": line,
        "color_accent": blue,
        "color_accent_soft": "#22394a",
        "link_text_color": "#8ccbf2",
        "link_text_color_hover": "#b9e0f8",
        "link_text_color_active": "#b9e0f8",
        "link_text_color_visited": "#8ccbf2",
        "block_background_fill": panel,
        "block_border_color": line,
        "block_label_background_fill": panel,
        "block_label_border_color": line,
        "block_label_text_color": quiet,
        "block_title_text_color": ink,
        "block_info_text_color": quiet,
        "panel_background_fill": panel,
        "panel_border_color": line,
        "input_background_fill": ground,
        "input_background_fill_focus": ground,
        "input_border_color": "#66737f",
        "input_border_color_focus": blue,
        "input_placeholder_color": "#8d99a5",
        "checkbox_background_color": ground,
        "checkbox_background_color_selected": "#2f7fb5",
        "checkbox_border_color": "#8d99a5",
        "checkbox_border_color_selected": blue,
        "checkbox_label_background_fill": ground,
        "checkbox_label_background_fill_hover": "#22394a",
        "checkbox_label_background_fill_selected": "#22394a",
        "checkbox_label_text_color": ink,
        "checkbox_label_text_color_selected": ink,
        "checkbox_label_border_color": line,
        "button_primary_background_fill": blue,
        "button_primary_background_fill_hover": "#7cc5ef",
        "button_primary_border_color": blue,
        "button_primary_text_color": "#0b1117",
        "button_primary_text_color_hover": "#0b1117",
        "button_secondary_background_fill": "#2a333d",
        "button_secondary_background_fill_hover": "#36414d",
        "button_secondary_border_color": "#66737f",
        "button_secondary_text_color": ink,
        "table_border_color": line,
        "slider_color": blue,
        "loader_color": blue,
        "accordion_text_color": ink,
        "table_text_color": ink,
        "code_background_fill": "#0d1114",
        "error_background_fill": "#2b1d12",
        "error_border_color": "#e69f00",
        "error_text_color": "#ffd9a0",
    }
    # Some names have no twin for the dark mode.
    known = inspect.signature(gr.themes.Base.set).parameters
    both = colours | {f"{name}_dark": colour for name, colour in colours.items() if f"{name}_dark" in known}
    fonts = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    base = gr.themes.Base(font=[Font(name) for name in fonts], font_mono=[Font(name) for name in mono])
    return base.set(**both, block_radius="6px", block_shadow="none", block_shadow_dark="none")


class Font(gr.themes.Font):
    """A font that the system has; generic names stand without quotes, or browsers do not know them."""

    def __str__(self) -> str:
        return self.name if " " not in self.name else f"'{self.name}'"


def serving(hosts: frozenset[str] | None = frozenset(), any_address: bool = False) -> dict:
    """How the page is served: `launch(**serving())`; nothing but what this process made is handed out.

    Args:
        hosts (`frozenset[str]`, *optional*), any_address (`bool`, *optional*): See
            [`~spaces_app.guard.headers.Guarded`].
    """
    return {
        "theme": theme(),
        # In the head as they are: what is passed as `css` is rewritten, which breaks selectors that hold a comma.
        "head": "\n".join(f"<{tag}>\n{(HERE / name).read_text(encoding='utf-8')}</{tag}>" for tag, name in IN_HEAD),
        "share": False,
        "show_error": False,
        "max_file_size": MAX_BYTES,
        "max_threads": 16,
        "state_session_capacity": 200,
        "allowed_paths": [],
        "blocked_paths": [str(HERE)],
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "app_kwargs": {"middleware": [Guarded.as_middleware(hosts, any_address)], "docs_url": None, "redoc_url": None},
    }
