"""The ST4VLA processor: the one place where images, words, states and actions become tensors, and come back."""
# transformers' processors take keyword arguments that their signatures do not list.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, Qwen2_5_VLProcessor

from .images_st4vla import nest_views, resize, stack_views, to_rgb_image
from .normalization import ActionContract, VectorContract
from .prompts import resolve_grounding_question, resolve_spatial_prompt
from .spatial import GroundingResult

VISION_PATCH_SIZE = 14  # DINOv2's, at every size


class ST4VLAProcessor(Qwen2_5_VLProcessor):
    r"""
    Images + instruction (+ state, actions) to model inputs, and model outputs back to robot and pixel units.

    Args:
        image_processor, tokenizer, video_processor, chat_template: as in [`Qwen2_5_VLProcessor`].
        spatial_prompt (`str`, *optional*, defaults to `"unified"`):
            A name of `SPATIAL_PROMPTS` or a literal template with `{instruction}`; used by `__call__`.
        lowercase_instruction (`bool`, *optional*, defaults to `False`):
            Whether instructions are lower-cased before the prompt (what the official inference code did).
        image_size (`list[int]`, *optional*, defaults to `[224, 224]`):
            (height, width) every view is resized to, once, for both encoders; multiples of 14.
        grounding_dialect (`str`, *optional*, defaults to `"qwen2_5_vl"`):
            How the planner writes coordinates; a dialect of `spatial`.
        action_contracts (`dict[str, dict]`, *optional*):
            `ActionContract.to_dict()` per dataset key. Without one, states and actions are refused.
        action_dim, state_dim (`int`, *optional*):
            Widths of a model that was trained on a mixture. Actions and states of a contract with fewer dimensions are
            filled up with zeros, which `action_dim_mask` marks; `state_mask` marks samples of a contract without
            state. `None` fills up nothing.

    Raises:
        ValueError: for an unknown prompt, an image size that is no multiple of 14, or a malformed contract.
    """

    # Named positional parameters only: transformers drops keyword-only ones when it saves a processor.
    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        chat_template=None,
        spatial_prompt: str = "unified",
        lowercase_instruction: bool = False,
        image_size: tuple[int, int] | list[int] = (224, 224),
        grounding_dialect: str = "qwen2_5_vl",
        action_contracts: dict[str, dict[str, Any]] | None = None,
        action_dim: int | None = None,
        state_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        resolve_spatial_prompt(spatial_prompt)
        self.spatial_prompt = spatial_prompt
        self.lowercase_instruction = lowercase_instruction
        self.image_size = _checked_image_size(image_size)
        self.grounding_dialect = grounding_dialect
        self.action_dim = action_dim
        self.state_dim = state_dim
        self.action_contracts = {
            key: ActionContract.from_dict(contract).to_dict() for key, contract in (action_contracts or {}).items()
        }
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)

    # Acting

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        state: Any = None,
        actions: Any = None,
        dataset_key: str | list[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        Raw instructions with images become model inputs; text that already holds the image token, or a call without
        images, takes [`Qwen2_5_VLProcessor`]'s path unchanged (chat templates, stock trainers).

        Args:
            images: `[[front, wrist], ...]` views per sample; or one image per text; or one image. See `to_rgb_image`.
            text (`str` or `list[str]`): instructions, without special tokens.
            state (shape `(batch, state_dim)`, *optional*), actions (shape `(batch, chunk, action_dim)`, *optional*):
                raw units; normalised by the action contract. Where contracts without state are mixed in, a list with
                `None` for their samples.
            dataset_key (`str` or `list[str]`, *optional*): whose contract, when there are several.

        Returns:
            [`BatchFeature`] of tensors: `input_ids`, `attention_mask`, `mm_token_type_ids` (`(batch, length)`, left
            padded), `pixel_values`, `image_grid_thw` (all images in order), `vision_pixel_values`
            `(batch, views, 3, height, width)`, `view_mask` `(batch, views)`, `image_sizes` `(batch, views, 2)`
            (original height and width), and `state`, `actions` when given. With `action_dim` or `state_dim` also
            `action_dim_mask` `(batch, action_dim)` and `state_mask` `(batch,)` where something is filled up.

        Raises:
            ValueError: naming the argument, what was expected and what was found.
        """
        if images is None or _holds_token(text, self.image_token):
            if state is not None or actions is not None:
                raise ValueError("state, actions: expected together with images and raw instructions.")
            return super().__call__(images=images, text=text, videos=videos, **kwargs)
        if videos is not None:
            raise ValueError("videos: not supported together with raw instructions; pass camera views as images.")
        texts = _as_texts(text)
        samples = self._load_views(images, len(texts))
        self._check_view_count(samples, dataset_key)
        resized = [[resize(view, self.image_size) for view in views] for views in samples]
        prompts = [self._question("spatial", instruction) for instruction in texts]

        inputs = self._encode_prompts(resized, prompts, **kwargs)
        inputs["vision_pixel_values"], inputs["view_mask"] = stack_views(resized)
        inputs["image_sizes"] = _image_sizes(samples)
        keys = _spread(dataset_key, len(texts))
        inputs.update(self._encode_state(state, keys))
        if actions is not None:
            inputs["actions"] = torch.stack(self._normalize(actions, keys, "action", self.action_dim))
        if self.action_dim is not None and self.action_contracts:
            dims = torch.tensor([self.contract(key).action.dim for key in keys])
            if (dims < self.action_dim).any():
                inputs["action_dim_mask"] = torch.arange(self.action_dim) < dims[:, None]
        return inputs

    def post_process_actions(self, actions: torch.Tensor | np.ndarray, dataset_key: str | None = None) -> np.ndarray:
        """
        Normalised actions to environment units: the exact inverse of what training did.

        Args:
            actions (shape `(..., action_dim)`): what `sample_actions` returns; filled-up dimensions are cut off.
            dataset_key (`str`, *optional*): whose contract, when there are several.

        Returns:
            `np.ndarray` of the same shape, float32.
        """
        if isinstance(actions, torch.Tensor):
            actions = actions.detach().float().cpu().numpy()
        contract = self.contract(dataset_key).action
        if self.action_dim is not None and actions.shape[-1:] == (self.action_dim,):
            actions = actions[..., : contract.dim]
        return _named("actions", contract.unnormalize, actions)

    def contract(self, dataset_key: str | None = None) -> ActionContract:
        """
        The action contract of a dataset key; of the only one when `dataset_key` is `None`.

        Raises:
            ValueError: when there is none, no such one, or the choice is ambiguous.
        """
        known = sorted(self.action_contracts)
        if not known:
            raise ValueError(
                "action_contracts: this processor has none, so actions have no units. Train on a dataset, or add one "
                "with processor.action_contracts[key] = contract.to_dict()."
            )
        if dataset_key is None and len(known) > 1:
            raise ValueError(f"dataset_key: this processor has several contracts, choose one of {known}.")
        key = known[0] if dataset_key is None else dataset_key
        if key not in self.action_contracts:
            raise ValueError(f"dataset_key: expected one of {known}, found {key!r}.")
        return ActionContract.from_dict(self.action_contracts[key])

    # Grounding

    def ground(
        self,
        images: Any,
        text: str | list[str],
        kind: str | list[str] = "auto",
        image_size: tuple[int, int] | list[int] | str | None = "default",
        answers: list[GroundingResult] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""
        Inputs for `model.generate`: where is what the text names?

        Args:
            images, text: as in `__call__`; one view per text is usual.
            kind (`str` or `list[str]`, *optional*, defaults to `"auto"`): `auto`, `point` or `box`: the text is what
                to find. `spatial`: the text is a task, asked in the spatial prompt exactly as it is used for acting.
                `trace`: the text is a task; the same prompt, and the request for the end effector's path.
            image_size (*optional*): (height, width); the processor's own by default; `None` keeps the native size,
                fitted by the image processor's `smart_resize`.
            answers (`list[GroundingResult]`, *optional*): one per text, in pixels of the sample's first image: adds
                `labels` that supervise exactly the answer and its end token.

        Returns:
            [`BatchFeature`] as in `__call__`, without the DINOv2 views.
        """
        texts = _as_texts(text)
        samples = self._load_views(images, len(texts))
        sized = self._sized(samples, image_size)
        kinds = [kind] * len(texts) if isinstance(kind, str) else kind
        prompts = [self._question(name, words) for name, words in zip(kinds, texts, strict=True)]
        inputs = self._encode_prompts(sized, prompts, **kwargs)
        inputs["image_sizes"] = _image_sizes(samples)
        if answers is not None:
            self._append_answers(inputs, answers)
        return inputs

    def ground_turns(
        self,
        images: Any,
        text: list[list[str]],
        kind: list[list[str]],
        answers: list[list[GroundingResult]],
        image_size: tuple[int, int] | list[int] | str | None = "default",
    ) -> BatchFeature:
        r"""
        Training inputs for several questions about each image: the image is there once, and every turn sees it and
        itself alone. Turn by turn the tokens are exactly those of [`ground`].

        Args:
            images: as in `ground`, one entry per image.
            text, kind, answers (lists of lists): per image its questions, as in `ground`.
            image_size (*optional*): as in `ground`.

        Returns:
            [`BatchFeature`] as of `ground` with `answers`, padded on the right, and `turn_ids` `(batch, length)`: 0 at
            the image, then 1, 2, ... in the turns.
        """
        samples = self._load_views(images, len(text))
        sized = self._sized(samples, image_size)
        prompts = [
            [self._question(name, words) for name, words in zip(names, questions, strict=True)]
            for names, questions in zip(kind, text, strict=True)
        ]
        inputs = self._encode_prompts(sized, [questions[0] for questions in prompts])
        inputs["image_sizes"] = _image_sizes(samples)
        sizes = [model_size for _, model_size in self._first_image_sizes(inputs)]
        rows = [
            self._turns(ids[mask.bool()], len(views), questions, replies, size)
            for ids, mask, views, questions, replies, size in zip(
                inputs["input_ids"], inputs["attention_mask"], sized, prompts, answers, sizes, strict=True
            )
        ]
        padding = {"input_ids": self.tokenizer.pad_token_id, "labels": -100, "turn_ids": 0, "attention_mask": 0}
        for name, value in padding.items():
            columns = [row[name] for row in rows]
            inputs[name] = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=value)
        image_token = self.tokenizer.convert_tokens_to_ids(self.image_token)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_token).int()
        return inputs

    def _turns(
        self, ids: torch.Tensor, views: int, prompts: list[str], answers: list[GroundingResult], size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        # `ids` is the whole first prompt. What follows its last image is the first question; each turn replaces it.
        image_token = self.tokenizer.convert_tokens_to_ids(self.image_token)
        shared = ids[: int((ids == image_token).nonzero()[-1]) + 1]
        asked = [self._turn(views, prompt).rsplit(self.image_token, 1)[1] for prompt in prompts]
        said = [answer.to_text(dialect=self.grounding_dialect, model_size=size) for answer in answers]
        # One call of the tokenizer: most of a call's time does not depend on how many texts it is given.
        tokens = self.tokenizer([*asked, *(words + self.tokenizer.eos_token for words in said)]).input_ids
        parts, labels = [shared], [torch.full_like(shared, -100)]
        for question, reply in zip(tokens[: len(asked)], tokens[len(asked) :], strict=True):
            parts.append(torch.tensor(question + reply))
            labels.append(torch.tensor([-100] * len(question) + reply))
        row = {"input_ids": torch.cat(parts), "labels": torch.cat(labels)}
        row["turn_ids"] = torch.cat([torch.full_like(part, number) for number, part in enumerate(parts)])
        return {**row, "attention_mask": torch.ones_like(row["input_ids"])}

    def post_process_grounding(
        self,
        generated_ids: torch.Tensor,
        inputs: BatchFeature | dict[str, Any],
        dialect: str | None = None,
        kind: str | list[str] = "auto",
    ) -> list[GroundingResult]:
        """
        Generated text to points, boxes and traces in pixels of each sample's first original image.

        Args:
            generated_ids (`torch.LongTensor` of shape `(batch, prompt + new)`): of `generate` or `plan`.
            inputs: what the processor made for that call (`input_ids`, `image_sizes`, `image_grid_thw`).
            dialect (`str`, *optional*): defaults to the processor's `grounding_dialect`.
            kind (`str` or `list[str]`, *optional*, defaults to `"auto"`): what was asked for, as in
                [`GroundingResult.from_text`]: `trace` joins a list of points to one path.
        """
        new_ids = generated_ids[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        kinds = [kind] * len(texts) if isinstance(kind, str) else kind
        return [
            GroundingResult.from_text(
                answer,
                dialect=dialect or self.grounding_dialect,
                image_size=size,
                model_size=model_size,
                kind=asked,  # pyright: ignore[reportArgumentType]
            )
            for answer, (size, model_size), asked in zip(texts, self._first_image_sizes(inputs), kinds, strict=True)
        ]

    def _first_image_sizes(
        self, inputs: BatchFeature | dict[str, Any]
    ) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        # (original, seen by the planner) as (width, height) of each sample's first image.
        patch, sizes, first = self.image_processor.patch_size, [], 0
        for views in inputs["image_sizes"].tolist():
            height, width = views[0]
            _, rows, columns = inputs["image_grid_thw"][first].tolist()
            sizes.append(((width, height), (columns * patch, rows * patch)))
            first += sum(view[0] > 0 for view in views)
        return sizes

    def _append_answers(self, inputs: BatchFeature, answers: list[GroundingResult]) -> None:
        # Prompts are padded on the left and answers on the right, so they meet; the prompt's tokens are exactly those
        # of generation, which one tokenisation of the joined text would not guarantee.
        sizes = self._first_image_sizes(inputs)
        texts = [
            answer.to_text(dialect=self.grounding_dialect, model_size=model_size) + self.tokenizer.eos_token
            for answer, (_, model_size) in zip(answers, sizes, strict=True)
        ]
        tokens = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        mask, prompt_ids = tokens["attention_mask"], inputs["input_ids"]
        supervised = tokens["input_ids"].masked_fill(mask == 0, -100)
        inputs["labels"] = torch.cat([torch.full_like(prompt_ids, -100), supervised], dim=1)
        inputs["input_ids"] = torch.cat([prompt_ids, tokens["input_ids"]], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], mask], dim=1)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(mask)], dim=1)

    # Publishing

    @contextmanager
    def with_code(self) -> Iterator[None]:
        """Within it, `save_pretrained` also writes the source files and the `auto_map` that names them."""
        # transformers keeps this as state of the class; left on, every later save in the process would carry code.
        cls = type(self)
        earlier, cls._auto_class = cls._auto_class, "AutoProcessor"
        try:
            yield
        finally:
            cls._auto_class = earlier

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, with the source code, so that it loads with `trust_remote_code=True`."""
        with self.with_code():
            return super().push_to_hub(*args, **kwargs)

    # Parts

    def _load_views(self, images: Any, num_texts: int) -> list[list[Image.Image]]:
        return [
            [to_rgb_image(view, f"images[{row}][{slot}]") for slot, view in enumerate(views)]
            for row, views in enumerate(nest_views(images, num_texts))
        ]

    def _sized(self, samples: list[list[Image.Image]], image_size: Any) -> list[list[Image.Image]]:
        size = self.image_size if image_size == "default" else image_size
        if size is None:
            return samples
        return [[resize(view, _checked_image_size(size, multiple=1)) for view in views] for views in samples]

    def _turn(self, views: int, prompt: str) -> str:
        """The chat text of one user turn, images first."""
        content = [{"type": "image"}] * views + [{"type": "text", "text": prompt}]
        return self.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _encode_prompts(self, samples: list[list[Image.Image]], prompts: list[str], **kwargs: Any) -> BatchFeature:
        """One user turn per sample, images first, left padded."""
        tensors = kwargs.pop("return_tensors", "pt")
        if tensors != "pt":
            raise ValueError(f"return_tensors: expected 'pt' with raw instructions, found {tensors!r}.")
        turns = [self._turn(len(views), prompt) for views, prompt in zip(samples, prompts, strict=True)]
        flat = [view for views in samples for view in views]
        return super().__call__(
            images=flat, text=turns, padding=True, padding_side="left", return_tensors="pt", **kwargs
        )

    def _question(self, kind: str, words: str) -> str:
        if kind in ("spatial", "trace"):
            task = self._clean_instruction(words)
            words = resolve_spatial_prompt(self.spatial_prompt).replace("{instruction}", task)
        if kind == "spatial":
            return words
        return resolve_grounding_question(kind).replace("{instruction}", self._refuse_special_tokens(words))

    def _clean_instruction(self, instruction: str) -> str:
        instruction = self._refuse_special_tokens(instruction)
        return instruction.lower() if self.lowercase_instruction else instruction

    def _refuse_special_tokens(self, text: str) -> str:
        if not text.strip():
            raise ValueError("text: expected an instruction, found an empty string.")
        found = [token for token in self.tokenizer.all_special_tokens if token in text]
        if found:
            raise ValueError(
                f"text: an instruction must not hold special tokens, found {found}. Remove them; they would change "
                "the structure of the prompt."
            )
        return text

    def _check_view_count(self, samples: list[list[Image.Image]], dataset_key: str | list[str] | None) -> None:
        for views, key in zip(samples, _spread(dataset_key, len(samples)), strict=True):
            if not self.action_contracts or (key is None and len(self.action_contracts) > 1):
                continue
            cameras = self.contract(key).cameras
            if cameras and len(views) != len(cameras):
                raise ValueError(
                    f"images: expected {len(cameras)} view(s) in the order {list(cameras)}, found {len(views)}."
                )

    def _encode_state(self, state: Any, keys: list[str | None]) -> dict[str, torch.Tensor]:
        """`state`, and `state_mask` where a contract has none; nothing where there is no state at all."""
        if self.state_dim is None or not self.action_contracts:
            return {} if state is None else {"state": torch.stack(self._normalize(state, keys, "state", None))}
        has_state = [self.contract(key).state is not None for key in keys]
        if state is None and any(has_state):
            return {}  # the model says what it misses
        rows = [None] * len(keys) if state is None else list(state)
        if len(rows) != len(keys) or [row is not None for row in rows] != has_state:
            raise ValueError(
                f"state: expected one for every sample whose action contract declares a state ({has_state}), found "
                f"{[row is not None for row in rows]}. Pass None for the others."
            )
        given = [(row, key) for row, key in zip(rows, keys, strict=True) if row is not None]
        filled = torch.zeros(len(keys), self.state_dim)
        if given:
            values, of = zip(*given, strict=True)
            filled[torch.tensor(has_state)] = torch.stack(self._normalize(values, list(of), "state", self.state_dim))
        return {"state": filled} if all(has_state) else {"state": filled, "state_mask": torch.tensor(has_state)}

    def _normalize(self, values: Any, keys: list[str | None], field: str, width: int | None) -> list[torch.Tensor]:
        """Each sample by its own contract, filled up with zeros to `width` if there is one."""
        rows = [np.asarray(row, dtype=np.float64) for row in values]
        if len(rows) != len(keys):
            raise ValueError(f"{field}: expected one entry per sample ({len(keys)}), found {len(rows)}.")
        normalized = []
        for row, key in zip(rows, keys, strict=True):
            vector: VectorContract | None = getattr(self.contract(key), field)
            if vector is None:
                raise ValueError(f"{field}: the action contract of {key or 'this model'} declares none, found one.")
            missing = (width or vector.dim) - vector.dim
            if missing < 0:
                raise ValueError(f"{field}: {key or 'this model'} has {vector.dim} dimensions, more than {width}.")
            ready = torch.from_numpy(_named(field, vector.normalize, row))
            normalized.append(torch.nn.functional.pad(ready, (0, missing)))
        return normalized


def _named(field: str, function: Any, values: np.ndarray) -> np.ndarray:
    try:
        return function(values)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def _as_texts(text: str | list[str] | None) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text or [])
    if not texts or not all(isinstance(item, str) for item in texts):
        raise ValueError("text: expected an instruction, or a list of them, beside the images.")
    return texts


def _holds_token(text: str | list[str] | None, token: str) -> bool:
    texts = [text] if isinstance(text, str) else (text or [])
    return any(isinstance(item, str) and token in item for item in texts)


def _spread(dataset_key: str | list[str] | None, count: int) -> list[str | None]:
    keys: list[str | None] = [dataset_key] * count if not isinstance(dataset_key, list) else list(dataset_key)
    if len(keys) != count:
        raise ValueError(f"dataset_key: expected one per sample ({count}), found {len(keys)}.")
    return keys


def _image_sizes(samples: list[list[Image.Image]]) -> torch.Tensor:
    sizes = torch.zeros(len(samples), max(len(views) for views in samples), 2, dtype=torch.long)
    for row, views in enumerate(samples):
        for slot, view in enumerate(views):
            sizes[row, slot] = torch.tensor([view.height, view.width])
    return sizes


def _checked_image_size(size: Any, multiple: int = VISION_PATCH_SIZE) -> list[int]:
    found = list(size) if isinstance(size, (list, tuple)) else [size]
    if len(found) != 2 or not all(isinstance(side, int) and side > 0 and side % multiple == 0 for side in found):
        raise ValueError(f"image_size: expected (height, width), positive multiples of {multiple}, found {size!r}.")
    return found


__all__ = ["ST4VLAProcessor"]
