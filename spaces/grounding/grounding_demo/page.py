"""The whole page, and how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Default

from grounding_demo import action_plots, facts
from grounding_demo.act_tab import build_act_tab
from grounding_demo.api_tab import build_api_tab
from grounding_demo.compare_tab import build_compare_tab
from grounding_demo.dataset_tab import build_dataset_tab
from grounding_demo.ground_tab import build_ground_tab
from grounding_demo.grounder import Grounder
from grounding_demo.limits import MAX_FILE_MB, MAX_QUEUE

_FOLDER = Path(__file__).parent
_CACHE = (3600, 24 * 3600)  # seconds: every hour, pictures older than a day are deleted


def build_page(grounder: Grounder, other: Grounder | None = None, allow_folders: bool = False) -> gr.Blocks:
    """
    The page over one model.

    Args:
        grounder: what answers; see [`grounding_demo.grounder.Grounder`].
        other: a second model for the Compare page.
        allow_folders: whether My dataset may open folders of this machine, not only Hub ids.
    """
    with gr.Blocks(
        title="ST4VLA: know where before you move", analytics_enabled=False, fill_width=True, delete_cache=_CACHE
    ) as page:
        gr.Markdown(f"# ST4VLA &nbsp;<small>know *where* before you move</small>\n{_model_line(grounder)}")
        with gr.Tabs():
            with gr.Tab("Ground", id="ground"):
                build_ground_tab(grounder)
            with gr.Tab("Act", id="act"):
                build_act_tab(grounder)
            with gr.Tab("Compare", id="compare"):
                build_compare_tab(grounder, other)
            with gr.Tab("My dataset", id="dataset"):
                build_dataset_tab(grounder, allow_folders)
            with gr.Tab("API", id="api"):
                build_api_tab(page, acts=grounder.no_actions is None)
    return page.queue(max_size=MAX_QUEUE, default_concurrency_limit=4)


def _model_line(grounder: Grounder) -> str:
    from html import escape

    return f"Model <code>{escape(grounder.name)}</code> on {escape(grounder.device)}. Nothing leaves this server."


def launch_options() -> dict[str, Any]:
    """How the page is served: to this machine only unless GRADIO_SERVER_NAME says otherwise, nothing reported."""
    return {
        "theme": Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=("system-ui", "sans-serif"),
            font_mono=("ui-monospace", "monospace"),
        ),
        "css": (_FOLDER / "page.css").read_text() + facts.CSS + action_plots.CSS,
        "share": False,
        "run_history": False,
        "footer_links": ["api", "settings"],
        "max_file_size": f"{MAX_FILE_MB}mb",
        "show_error": True,
        "enable_monitoring": False,
        "pwa": False,
        "mcp_server": False,
        "ssr_mode": False,
    }


__all__ = ["build_page", "launch_options"]
