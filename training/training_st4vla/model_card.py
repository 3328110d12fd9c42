"""The README.md of a saved model: what it is, how to use it, what it was made from, what was measured."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from training_st4vla.errors import UserError
from training_st4vla.provenance import END, START
from training_st4vla.selftest import EXAMPLE, FOLDER

_HOW = "## How it was made"

_BODY = """---
{front_matter}
---

# {title}

{summary}

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
{usage}
```

![The model's own answer to a question about its selftest image]({example})

*What this copy answered when it was saved, drawn on its selftest image; the words are below the picture.*

With the package `st4vla` installed, `import modeling_st4vla, processing_st4vla` replaces `trust_remote_code=True`, and
`st4vla selftest {name}` checks that this copy computes what it computed when it was saved.

| | |
| --- | --- |
{facts}

## Actions

{contracts}

## Intended use and limits

For research on grounding and manipulation with the robots, cameras, units and rates listed under *Actions*; on
anything else its actions mean nothing. Actions are not checked for safety: limit workspace, speed and force outside
the model, and keep a person at the stop button. Answers can be wrong without looking wrong; figures, where
there are any, hold for the data they are named with.

{how}

{start}
{history}
{end}

## Sources

ST4VLA: Spatially Guided Training for Vision-Language-Action Models (arXiv 2602.10109); InternVLA-M1 (2510.13778).
{notes}
"""

_ACTING = """\
inputs = processor(images=[[image]], text=["put the carrot on the plate"]{state}{key})
actions = processor.post_process_actions(model.sample_actions(**inputs){key})"""

# Without an action contract a model cannot act; where things are it can be asked.
_ASKING = """\
question = processor.ground(images=[image], text=["the red block"], kind="box")
answer = processor.post_process_grounding(model.generate(**question, max_new_tokens=64), question)[0]
print(answer.boxes, answer.rejected)  # in pixels of the image; what could not be read, with the reason"""


def build_model_card(
    name: str,
    model: Any,
    processor: Any,
    summary: str,
    history: str,
    metadata: dict[str, Any] | None = None,
    notes: str = "",
) -> ModelCard:
    """
    A model card with the front matter the Hub reads.

    Args:
        name (`str`): the folder or repository name.
        model, processor: what is saved.
        summary (`str`): one paragraph: how these weights came to be.
        history (`str`): markdown from `provenance.add_step`: commands, data with licences, versions.
        metadata (`dict`, *optional*): further `ModelCardData` fields, for example `base_model`, `datasets`, `license`.
        notes (`str`, *optional*): markdown after the sources.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="robotics",
        tags=["robotics", "vision-language-action", "st4vla", "grounding"],
        **(metadata or {}),
    )
    config = model.config
    facts = {
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M ({str(model.dtype).split('.')[-1]})",
        "planner": f"{config.vlm_config.model_type}, {config.text_config.num_hidden_layers} layers of "
        f"{config.text_config.hidden_size}, read at {list(config.planner_layers)}",
        "action expert": ", ".join(f"{key} {value}" for key, value in config.action_expert.items()),
        "scheduler": f"{config.scheduler['_class_name']}, {config.num_inference_steps} steps, guidance "
        f"{config.guidance_scale}",
        "actions": f"{config.chunk_size} x {config.action_dim}",
        "state": "none" if config.state_dim is None else str(config.state_dim),
        "spatial prompt": f"`{processor.spatial_prompt}`",
    }
    contracts = sorted(processor.action_contracts)
    acting = _ACTING.format(
        key=f', dataset_key="{contracts[0]}"' if len(contracts) > 1 else "",
        state="" if config.state_dim is None else ", state=[state]",
    )
    body = _BODY.format(
        usage=acting if contracts else _ASKING,
        front_matter=data.to_yaml(),
        title=name,
        name=name,
        summary=summary,
        example=f"{FOLDER}/{EXAMPLE}",
        how=_HOW,
        start=START,
        history=history,
        end=END,
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        contracts=_describe_contracts(processor),
        notes=notes,
    )
    return ModelCard(body)


@dataclass(frozen=True)
class Measured:
    """
    One figure of an evaluation.

    Args:
        metric (`str`): its name. value, low, high (`float`): estimate and 95 % interval. number (`int`): of questions
            or episodes behind it.
    """

    metric: str
    value: float
    low: float
    high: float
    number: int


def add_results(
    folder: Path, task: str, dataset: str, figures: Sequence[Measured], command: str, notes: Sequence[str] = ()
) -> None:
    """
    Writes figures into a model folder's card: a table with intervals, and the Hub's `model-index`.

    Earlier figures of the same task and dataset are replaced where they stand; new ones come before the history, which
    grows with every training.

    Args:
        folder (`Path`): of the model. task (`str`): for example `grounding`. dataset (`str`): what was evaluated on.
        command (`str`): that prints the same figures. notes (`Sequence[str]`, *optional*): a list below the table.

    Raises:
        UserError: when the folder has no card.
    """
    path = folder / "README.md"
    if not path.is_file():
        raise UserError(f"{folder}: expected a model card README.md to write the figures into, found none.")
    card = ModelCard.load(path)
    data: Any = card.data
    kept = [one for one in data.eval_results or [] if (one.task_type, one.dataset_name) != (task, dataset)]
    data.model_name = data.model_name or folder.name
    data.eval_results = kept + [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=one.metric,
            metric_name=one.metric,
            metric_value=round(one.value, 4),
        )
        for one in figures
    ]
    rows = "\n".join(
        f"| {one.metric} | {one.value:.3f} | {one.low:.3f} to {one.high:.3f} | {one.number} |" for one in figures
    )
    listed = "".join(f"- {note}\n" for note in notes) + "\n" * bool(notes)
    start, end = f"<!-- results: {task}, {dataset} -->", "<!-- end of results -->"
    section = (
        f"{start}\n## Measured: {task} on {dataset}\n\n| metric | value | 95 % interval | number |\n"
        f"| --- | --- | --- | --- |\n{rows}\n\n{listed}`{command}`\n{end}"
    )
    earlier = re.compile(re.escape(start) + r".*?" + re.escape(end), re.DOTALL)
    if earlier.search(card.text):
        card.text = earlier.sub(lambda _: section, card.text)
    else:
        before, heading, after = card.text.partition(f"{_HOW}\n")
        card.text = f"{before.rstrip()}\n\n{section}\n" + f"\n{heading}{after}" * bool(heading)
    card.save(path)


def _describe_contracts(processor: Any) -> str:
    if not processor.action_contracts:
        return "No action contract yet: these weights were not trained on a robot, and their actions have no units."
    parts = []
    for key in processor.action_contracts:
        contract = processor.contract(key)
        rows = [
            f"| {name} | {unit} | {mode} |"
            for name, unit, mode in zip(
                contract.action.names, contract.action.units, contract.action.normalization, strict=True
            )
        ]
        parts.append(
            f"**{key}**: {contract.representation}, frame {contract.frame}, rotation {contract.rotation}, gripper "
            f"{list(contract.gripper_dims)} {contract.gripper_polarity}, {contract.control_hz or 'unknown'} Hz, "
            f"cameras {list(contract.cameras) or 'unknown'}.\n\n"
            "| dimension | unit | normalisation |\n| --- | --- | --- |\n" + "\n".join(rows)
        )
    return "\n\n".join(parts)


__all__ = ["Measured", "add_results", "build_model_card"]
