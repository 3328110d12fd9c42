"""Opening a model for grounding: code in its folder is never run, and every kind is asked at the size it knows."""

from pathlib import Path
from typing import Any

from grounding_toy import picture

from training_st4vla.evaluation.grounding_predictions import predict_grounding
from training_st4vla.loading import load_grounder


def test_a_folder_with_exported_code(tmp_path: Path, model: Any, processor: Any) -> None:
    config = model.config
    config.auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')\n")
    loaded, _ = load_grounder(str(tmp_path), device="cpu")
    assert type(loaded) is type(model)


def test_a_plain_vlm_is_asked_at_each_image_s_own_size(tmp_path: Path, model: Any, processor: Any) -> None:
    from transformers import Qwen2_5_VLProcessor

    plain, ours = tmp_path / "plain", tmp_path / "ours"
    model.vlm.save_pretrained(plain)
    parts = (processor.image_processor, processor.tokenizer, processor.video_processor)
    Qwen2_5_VLProcessor(*parts, chat_template=processor.chat_template).save_pretrained(plain)
    model.save_pretrained(ours)
    processor.save_pretrained(ours)
    wide = picture(size=(560, 280))
    seen, kinds = {}, []
    for folder in (plain, ours):
        loaded, opened = load_grounder(str(folder), device="cpu")
        inputs = opened.ground(images=[[wide]], text=["it"], kind="box")
        seen[folder.name] = inputs["image_grid_thw"][0].tolist()
        question = {"image": wide, "instruction": "it", "kind": "box"}
        kinds.append(type(loaded))
        assert len(predict_grounding(loaded, opened, [question], max_new_tokens=1)) == 1
    assert [kind is type(model) for kind in kinds] == [False, True]
    assert seen == {"plain": [1, 20, 40], "ours": [1, 8, 8]}
