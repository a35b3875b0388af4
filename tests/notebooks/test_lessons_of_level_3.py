"""The lessons of Level 3 and above run under nbval, and one of them with other models."""

import nbformat
import pytest

from notebooks import LESSONS, check_lesson, name, run


@pytest.mark.parametrize("path", [path for path in LESSONS if path.parent.name[0] not in "12"], ids=name)
def test_lesson_runs_and_marked_outputs_agree(path, tmp_path):
    check_lesson(path, tmp_path)


@pytest.mark.parametrize("architecture", ["opt", "qwen2"])
def test_gptq_lesson_takes_another_model(architecture, tmp_path):
    import torch
    import transformers

    from course_utils import models

    torch.manual_seed(0)
    tokenizer = models.load_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    ids["eos_token_id"] = tokenizer.eos_token_id
    if architecture == "opt":
        config = transformers.OPTConfig(
            **sizes, **ids, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=512
        )
    else:
        config = transformers.Qwen2Config(**sizes, **ids, num_key_value_heads=2, intermediate_size=128)
    folder = tmp_path / architecture
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = next(path for path in LESSONS if path.stem == "3.2-gptq")
    command = ["papermill", str(path), str(tmp_path / "out.ipynb"), "--cwd", str(path.parent)]
    run([*command, "-r", "model", str(folder), "-p", "fast", "True"], tmp_path, tmp_path / "log")
    notebook = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert str(folder) in injected[0].source
