"""`st4vla demo`: the grounding Space on this machine."""

import os
import sys
from dataclasses import dataclass

from training_st4vla.commands.arguments import device_flag, dtype_flag, exit_with, flag
from training_st4vla.commands.console import say
from training_st4vla.commands.main import Command
from training_st4vla.errors import require_extra


@dataclass
class DemoArguments:
    """Flags of `st4vla demo`."""

    model: str | None = flag(
        "model folder or Hub id: ST4VLA, or a plain Qwen2.5-VL or Qwen3-VL (grounding only); the published tabletop "
        "model by default",
        None,
    )
    compare: str | None = flag("a second model for the Compare page", None)
    port: int | None = flag("port; the first free one from 7860 by default", None)
    host: str = flag("address to listen on; others than this machine can reach 0.0.0.0", "127.0.0.1")
    open_browser: bool = flag("open the page in a browser", False)
    dtype: str = dtype_flag()
    device: str = device_flag()


def run(args: DemoArguments) -> int:
    """Loads the model, then serves the page until Ctrl-C."""
    require_extra("gradio", "demo")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from training_st4vla.published import demo_folder

    sys.path.insert(0, str(demo_folder()))
    say("Loading ...")
    from grounding_demo.serving import load, serve

    grounder = load(args.model, args.dtype, args.device)
    other = load(args.compare, args.dtype, args.device) if args.compare else None
    say(f"{grounder.name} on {grounder.device}. Ctrl-C ends the demo.")
    local = args.host in ("127.0.0.1", "localhost", "::1")  # nobody else can make the demo open folders
    options = {"server_name": args.host, "server_port": args.port, "inbrowser": args.open_browser}
    serve(grounder, other, allow_folders=local, **options)
    return 0


COMMAND = Command(
    name="demo",
    arguments=lambda: (DemoArguments,),
    run=run,
    description="Shows a model in the browser: ask, see, correct, export; actions; your dataset. No network needed.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
