"""Saving and publishing a model together with its source code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TAGS = ("robotics", "vision-language-action", "st4vla", "grounding")


class CodeExportMixin:
    """
    Adds the source files to what transformers saves or uploads, so that the result loads with
    `trust_remote_code=True` where this package is not installed.
    """

    @contextmanager
    def with_code(self: Any) -> Iterator[None]:
        """Within it, `save_pretrained` also writes the source files and the `auto_map` that names them."""
        # transformers keeps this as state of the class; left on, every later save in the process would carry code.
        classes = {type(self.config): "AutoConfig", type(self): "AutoModel"}
        earlier, auto_map = {cls: cls._auto_class for cls in classes}, getattr(self.config, "auto_map", None)
        # One class serves two Auto classes, and `_auto_class` names only one of them.
        self.config.auto_map = {"AutoModelForImageTextToText": "modeling_st4vla.ST4VLAForActionPrediction"}
        for cls, name in classes.items():
            cls._auto_class = name
        try:
            yield
        finally:
            for cls, name in earlier.items():
                cls._auto_class = name
            if auto_map is None:
                delattr(self.config, "auto_map")
            else:
                self.config.auto_map = auto_map

    def push_to_hub(self: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As in transformers, with the source code and this model's tags. The card stays transformers' stub unless the
        repository has one; `st4vla push FOLDER` uploads a checked folder with a complete card instead.
        """
        tags = kwargs.pop("tags", None) or []
        kwargs["tags"] = [*TAGS, *([tags] if isinstance(tags, str) else tags)]
        with self.with_code():
            return super().push_to_hub(*args, **kwargs)
