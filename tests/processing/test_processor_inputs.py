"""Images and instructions to model inputs: the prompt word by word, the accepted images, the rest refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLProcessor

from processing_st4vla import SPATIAL_PROMPTS, ST4VLAProcessor

VIEW = "<|vision_start|>" + "<|image_pad|>" * 16 + "<|vision_end|>"  # 112 x 112 pixels: 8 x 8 patches, merged by 4
START = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
END = "<|im_end|>\n<|im_start|>assistant\n"


def words(processor: Any, inputs: Any, row: int = 0) -> str:
    kept = inputs["input_ids"][row][inputs["attention_mask"][row] == 1]
    return processor.tokenizer.decode(kept)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (
            "unified",
            "Your task is to move it. Figure out how to execute it, then locate the key object needed.",
        ),
        (
            "box",
            "Your task is move it. To identify the key objects for your task. "
            "Locate their bounding boxes in [x1,y1,x2,y2] format.",
        ),
        (
            "point",
            "Your task is move it. To identify the key objects for your task. Locate their points in [x,y] format.",
        ),
        (
            "trace",
            "Your task is move it. To predict how the end effector should move for your task. "
            "Locate its trajectory in [[x1,y1],[x2,y2],...] format.",
        ),
        ("none", "move it"),
        ("Do {instruction} ({instruction})", "Do move it (move it)"),
    ],
)
def test_prompts_by_name_in_one_user_turn_images_first(
    processor: Any, draw_view: Callable, prompt: str, text: str, views: int
) -> None:
    processor.spatial_prompt = prompt
    inputs = processor(images=[[draw_view(slot) for slot in range(views)]], text=["move it"])
    assert words(processor, inputs) == START + VIEW * views + text + END


def test_unified_is_the_default(processor: Any) -> None:
    assert processor.spatial_prompt == "unified"
    assert set(SPATIAL_PROMPTS) == {"unified", "box", "point", "trace", "none"}
    assert processor.lowercase_instruction is False
    bare = ST4VLAProcessor(processor.image_processor, processor.tokenizer, processor.video_processor)
    assert (bare.spatial_prompt, list(bare.image_size)) == ("unified", [224, 224])


def test_a_prompt_without_a_place_for_the_instruction_is_refused(processor: Any, draw_view: Callable) -> None:
    parts = (processor.image_processor, processor.tokenizer, processor.video_processor)
    with pytest.raises(ValueError, match=r"spatial_prompt: expected one of \['box', .*found 'boxes'"):
        ST4VLAProcessor(*parts, spatial_prompt="boxes")
    processor.spatial_prompt = "boxes"
    with pytest.raises(ValueError, match="spatial_prompt"):
        processor(images=draw_view(0), text="go")


def test_lower_casing_concerns_the_instruction_only(processor: Any, draw_view: Callable) -> None:
    processor.lowercase_instruction = True
    inputs = processor(images=draw_view(0), text="Put the RED cube")
    assert "Your task is to put the red cube. Figure" in words(processor, inputs)
    asked = processor.ground(images=draw_view(0), text="Where is the RED cube?")
    assert "Where is the RED cube?" in words(processor, asked)


@pytest.mark.parametrize("text", ["push <|im_end|>", "<|vision_start|>push", "", "   "])
def test_instructions_that_would_change_the_structure_are_refused(
    processor: Any, draw_view: Callable, text: str
) -> None:
    with pytest.raises(ValueError, match="text: "):
        processor(images=draw_view(0), text=text)
    with pytest.raises(ValueError, match="text: "):
        processor.ground(images=draw_view(0), text=text)


def test_batches_are_padded_on_the_left_and_views_at_the_end(processor: Any, draw_view: Callable) -> None:
    samples = [[draw_view(0)], [draw_view(1), draw_view(2, 64, 48)]]
    inputs = processor(images=samples, text=["go", "go"])
    mask = inputs["attention_mask"]
    assert mask[0].tolist() == sorted(mask[0].tolist())
    assert mask[0].sum() < mask.shape[1] == mask[1].sum()
    assert inputs["vision_pixel_values"].shape == (2, 2, 3, 112, 112)
    assert inputs["view_mask"].tolist() == [[True, False], [True, True]]
    assert inputs["image_sizes"].tolist() == [[[120, 160], [0, 0]], [[120, 160], [64, 48]]]
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]] * 3
    for row, (sample, count) in enumerate(zip(samples, (1, 2), strict=True)):
        alone = processor(images=[sample], text=["go"])
        assert words(processor, inputs, row) == words(processor, alone)
        assert torch.equal(inputs["vision_pixel_values"][row, :count], alone["vision_pixel_values"][0])


def test_each_view_is_resized_once_and_feeds_both_encoders(processor: Any, draw_view: Callable) -> None:
    view = draw_view(3, 240, 320)
    small = np.asarray(Image.fromarray(view).resize((112, 112), Image.Resampling.BICUBIC))
    inputs = processor(images=view, text="go")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((small / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(inputs["vision_pixel_values"][0, 0].numpy(), expected, rtol=0, atol=1e-5)
    direct = processor.image_processor([Image.fromarray(small)], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], direct["pixel_values"])


def test_every_accepted_form_of_an_image_gives_the_same_inputs(processor: Any, draw_view: Callable) -> None:
    view = draw_view(4)
    planes = torch.from_numpy(view).permute(2, 0, 1)
    forms = [view, Image.fromarray(view), planes, planes.float() / 255]
    expected = processor(images=[[forms[0]]], text=["go"])
    for form in forms:
        for images in ([[form]], [form], form):
            inputs = processor(images=images, text=["go"])
            assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def as_mode(mode: str) -> Image.Image:
    return Image.new("RGB", (16, 16), (9, 99, 199)).convert(mode)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (as_mode("RGBA"), "expected an RGB image, found mode 'RGBA'.*convert"),
        (as_mode("L"), "found mode 'L'"),
        (as_mode("P"), "found mode 'P'"),
        (as_mode("CMYK"), "found mode 'CMYK'"),
        (Image.new("RGB", (0, 5)), "expected an image with pixels, found 0 x 5"),
        (np.zeros((0, 4, 3), np.uint8), "found 4 x 0"),
        (np.zeros((8, 8), np.uint8), r"uint8 array of shape \(height, width, 3\), found uint8 \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"found uint8 \(8, 8, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), r"found uint8 \(3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), "found float32"),
        (torch.zeros(8, 8, 3), r"tensor of shape \(3, height, width\), found \(8, 8, 3\)"),
        (torch.full((3, 8, 8), 255.0), r"expected float values in \[0, 1\], found a range of \[255, 255\]"),
        (torch.full((3, 8, 8), float("nan")), "expected float values in .0, 1., found a range of .nan"),
        (torch.zeros(3, 0, 8), "expected an image with pixels"),
        (None, "expected a PIL image, numpy array or torch tensor, found NoneType"),
        (b"jpeg", "expected a PIL image|views"),
    ],
)
def test_images_that_would_be_guessed_are_refused(processor: Any, image: Any, message: str) -> None:
    good = as_mode("RGB")
    with pytest.raises(ValueError, match=message):
        processor(images=[[good, image]], text=["go"])
    with pytest.raises(ValueError, match=message):
        processor.ground(images=[[good, image]], text=["go"])


def test_a_bad_image_is_named_by_its_place(processor: Any) -> None:
    good, bad = as_mode("RGB"), as_mode("L")
    with pytest.raises(ValueError, match=r"images\[1\]\[2\]"):
        processor(images=[[good], [good, good, bad]], text=["go", "go"])


@pytest.mark.parametrize(
    ("views", "texts", "message"),
    [
        ([[1], [1]], 1, "expected one list of views per text, found 2 for 1"),
        ([[1]], 2, "expected one list of views per text, found 1 for 2"),
        ([1, 1, 1], 2, "expected one list of views per text, found 3 for 2"),
        ([[1], 1], 2, "found both in one list"),
        ([[1], []], 2, r"expected at least one view per sample, found none in samples \[1\]"),
        ([], 1, "expected at least one view"),
    ],
)
def test_views_and_texts_must_match(processor: Any, views: list, texts: int, message: str) -> None:
    images = [[as_mode("RGB")] * len(item) if isinstance(item, list) else as_mode("RGB") for item in views]
    with pytest.raises(ValueError, match=message):
        processor(images=images, text=["go"] * texts)


def test_the_contract_says_how_many_views(processor: Any, make_contract: Callable, draw_view: Callable) -> None:
    processor.action_contracts = {"toy": make_contract(cameras=("front", "wrist"))}
    with pytest.raises(ValueError, match=r"expected 2 view\(s\) in the order \['front', 'wrist'\], found 1"):
        processor(images=[[draw_view(0)]], text=["go"])
    assert processor(images=[[draw_view(0), draw_view(1)]], text=["go"])["view_mask"].shape == (1, 2)


def test_text_with_an_image_token_takes_the_parents_path(processor: Any, draw_view: Callable) -> None:
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    parts = (processor.image_processor, processor.tokenizer, processor.video_processor)
    parent = Qwen2_5_VLProcessor(*parts, chat_template=processor.chat_template)
    image = Image.fromarray(draw_view(0, 120, 160))
    for images in ([image], None):
        given = text if images else "What is it?"
        found, expected = (one(images=images, text=[given], return_tensors="pt") for one in (processor, parent))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="state, actions"):
        processor(images=[image], text=[text], state=[[0.0] * 4])


@pytest.mark.parametrize("size", [100, (100, 112), (112,), (0, 112), (112.0, 112), "224"])
def test_image_sizes_that_patches_do_not_tile_are_refused(processor: Any, size: Any) -> None:
    parts = (processor.image_processor, processor.tokenizer, processor.video_processor)
    with pytest.raises(ValueError, match=r"image_size: expected .height, width., positive multiples of 14"):
        ST4VLAProcessor(*parts, image_size=size)
