"""The named spatial prompts (for acting) and grounding questions (for asking)."""

# `{instruction}` is replaced by the user's words. `unified` is the prompt of the paper's stage-2 figure (arXiv
# 2510.13778, figure 2; best in the prompt ablation of arXiv 2602.10109) and `box` is what the authors' public configs
# ship. No text is published for the point and trace variants of that ablation: these two wordings are ours.
SPATIAL_PROMPTS: dict[str, str] = {
    "unified": ("Your task is to {instruction}. Figure out how to execute it, then locate the key object needed."),
    "box": (
        "Your task is {instruction}. To identify the key objects for your task. "
        "Locate their bounding boxes in [x1,y1,x2,y2] format."
    ),
    "point": (
        "Your task is {instruction}. To identify the key objects for your task. Locate their points in [x,y] format."
    ),
    "trace": (
        "Your task is {instruction}. To predict how the end effector should move for your task. "
        "Locate its trajectory in [[x1,y1],[x2,y2],...] format."
    ),
    "none": "{instruction}",
}

# Each asks for the JSON that the Qwen2.5-VL dialect of `spatial` reads. `auto` leaves the form to the user's words.
GROUNDING_QUESTIONS: dict[str, str] = {
    "auto": "{instruction}",
    "point": '{instruction} Output the point coordinates in JSON format, with the keys "point_2d" and "label".',
    "box": '{instruction} Output the bounding box coordinates in JSON format, with the keys "bbox_2d" and "label".',
    "trace": (
        "{instruction} Predict the trajectory that the end effector should take. "
        'Output its points in order in JSON format, with the keys "trace_2d" and "label".'
    ),
}


def resolve_spatial_prompt(prompt: str) -> str:
    """
    The template behind a spatial prompt: a name of `SPATIAL_PROMPTS`, or a literal template with `{instruction}`.

    Raises:
        ValueError: for a text that is neither.
    """
    template = SPATIAL_PROMPTS.get(prompt, prompt)
    if "{instruction}" not in template:
        raise ValueError(
            f"spatial_prompt: expected one of {sorted(SPATIAL_PROMPTS)} or a template that contains "
            f"'{{instruction}}', found {prompt!r}."
        )
    return template


def resolve_grounding_question(kind: str) -> str:
    """
    The question template of a grounding kind.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in GROUNDING_QUESTIONS:
        raise ValueError(f"kind: expected one of {sorted(GROUNDING_QUESTIONS)}, found {kind!r}.")
    return GROUNDING_QUESTIONS[kind]


__all__ = ["GROUNDING_QUESTIONS", "SPATIAL_PROMPTS", "resolve_grounding_question", "resolve_spatial_prompt"]
