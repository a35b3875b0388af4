"""The lessons of Level 3 and above run under nbval, and some lessons with other models."""

import nbformat
import pytest

from notebooks import LESSONS, PAPERMILL, check_lesson, name, run


@pytest.mark.parametrize(
    "path", [path for path in LESSONS if path.parent.name[0] not in "12"], ids=name
)
def test_lesson_runs_and_marked_outputs_agree(path, tmp_path):
    check_lesson(path, tmp_path)


def save_tiny(architecture: str, folder) -> None:
    """A random model with the bundled tokenizer."""
    import torch
    import transformers

    from course_utils import models

    torch.manual_seed(0)
    tokenizer = models.load_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    ids["eos_token_id"] = tokenizer.eos_token_id
    config = {
        "opt": lambda: transformers.OPTConfig(
            **sizes, **ids, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=512
        ),
        "qwen2": lambda: transformers.Qwen2Config(
            **sizes, **ids, num_key_value_heads=2, intermediate_size=128
        ),
        "llama": lambda: transformers.LlamaConfig(
            **sizes, **ids, num_key_value_heads=2, intermediate_size=128
        ),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=len(tokenizer), n_embd=64, n_layer=3, n_head=4, n_positions=512, **ids
        ),
    }[architecture]()
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("lesson", "architecture"),
    [
        ("3.2-gptq", "opt"),
        ("3.2-gptq", "qwen2"),
        ("2.3-distillation", "gpt2"),
        ("3.5-distillation-losses", "llama"),
    ],
)
def test_lesson_takes_another_model(lesson, architecture, tmp_path):
    folder = tmp_path / architecture
    save_tiny(architecture, folder)
    path = next(path for path in LESSONS if path.stem == lesson)
    command = [*PAPERMILL, str(path), str(tmp_path / "out.ipynb"), "--cwd", str(path.parent)]
    run([*command, "-r", "model", str(folder), "-p", "fast", "True"], tmp_path, tmp_path / "log")
    notebook = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    injected = [
        cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])
    ]
    assert str(folder) in injected[0].source
