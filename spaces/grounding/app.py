"""The grounding Space. `st4vla demo` starts the same page on your own machine.

Environment: `ST4VLA_MODEL`, a model folder or Hub id; the published tabletop model without it.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from grounding_demo.serving import load_or_explain, serve

if __name__ == "__main__":
    serve(load_or_explain(os.environ.get("ST4VLA_MODEL")))
