"""A small byte-level BPE tokenizer with Qwen's special tokens, trained in code on sentences of the task."""

import itertools

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# Qwen's control tokens, in Qwen's order.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if loop.first and message.role != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'text' %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

VOCABULARY_SIZE = 1024

_COLOURS = ["red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "gray", "cyan"]
_SHAPES = [
    "cube",
    "block",
    "brick",
    "puck",
    "zone",
    "object",
    "container",
    "gripper",
    "ball",
    "cylinder",
    "cone",
    "box",
    "ring",
    "plate",
    "bowl",
    "cup",
    "basket",
    "tray",
    "mug",
    "bottle",
    "spoon",
    "towel",
    "drawer",
]
_SIZES = ["small", "large", "big", "tiny", "tall", "short", "long"]
_MATERIALS = ["wooden", "metal", "rubber", "plastic", "glass", "shiny", "matte", "striped"]
_FRAMES = (
    "put the {a} on the {b}",
    "pick up the {a} and place it in the {b}",
    "move the {a} next to the {b}",
    "push the {a} to the left of the {b}",
    "stack the {a} on top of the {b}",
    "place the {a} between the {b} and the second {a} from the right",
    "first open the drawer, then put the {a} into it",
    "point to the free space on the {b}",
    "the {a}",
    "Locate the {a}. Where is the {a} behind the {b}?",
)


# Texts that never vary are one token each: they carry nothing to learn, and would be most of a short question.
_ANSWER_PARTS = (
    '[{"bbox_2d": [',
    '[{"point_2d": [',
    '[{"trace_2d": [[',
    '"}, {"bbox_2d": [',
    '"}, {"point_2d": [',
    ']], "label": "',
    '], "label": "',
    '"}]',
    "], [",
    ", ",
)


def _fixed_texts() -> list[str]:
    """The invariable parts of questions, prompts and answers."""
    from processing_st4vla import GROUNDING_QUESTIONS, SPATIAL_PROMPTS

    templates = (*SPATIAL_PROMPTS.values(), *GROUNDING_QUESTIONS.values())
    around = {part for template in templates for part in template.split("{instruction}") if len(part) > 1}
    return [*sorted(around), *_ANSWER_PARTS]


def _corpus() -> list[str]:
    from processing_st4vla import GROUNDING_QUESTIONS, SPATIAL_PROMPTS

    nouns = [f"{colour} {shape}" for colour, shape in itertools.product(_COLOURS, _SHAPES)]
    nouns += [f"{size} {material} {shape}" for size, material, shape in itertools.product(_SIZES, _MATERIALS, _SHAPES)]
    sentences = [
        frame.format(a=noun, b=nouns[(3 * index + 7) % len(nouns)])
        for index, noun in enumerate(nouns)
        for frame in _FRAMES
    ]
    templates = [*SPATIAL_PROMPTS.values(), *GROUNDING_QUESTIONS.values()]
    prompts = [
        template.format(instruction=sentence)
        for index, sentence in enumerate(sentences)
        for template in templates[index % 3 :: 3]
    ]
    answers = [
        f'[{{"bbox_2d": [{i % 224}, {(7 * i) % 224}, {(3 * i) % 224}, {(5 * i) % 224}], "label": "{noun}"}}] '
        f'[{{"point_2d": [{(9 * i) % 224}, {(2 * i) % 224}], "label": "{noun}"}}] '
        f'{{"trace_2d": [[{i % 224}, {i % 99}]]}}'
        for i, noun in enumerate(nouns)
    ]
    return [*prompts, *answers, "system\nYou are a helpful assistant.\nuser\nassistant\n" * 50]


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """
    Trains the tokenizer; a second of work, the same result every time.

    Digits are single tokens, as in Qwen: a coordinate is then always spelt the same way.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|[^\S\n]?\p{L}+|\n+|[^\S\n]?[^\s\p{L}\d]+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(_fixed_texts()),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer=trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in _fixed_texts()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")],
        padding_side="left",
        model_max_length=32768,
        chat_template=CHAT_TEMPLATE,
    )


__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "VOCABULARY_SIZE", "build_tiny_tokenizer"]
