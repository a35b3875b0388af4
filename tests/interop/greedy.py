"""GGUF files through llama.cpp: the same tokens of a text, and the same greedy text as the model
read here.

llama.cpp rounds activations to 8 bits before a product with quantized weights; there, two tokens
that are nearly as likely may change places. So each of its tokens is also compared by how much less
likely it is here than the best one.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from course_utils import models
from course_utils.checkpoints import gguf
from course_utils.errors import CompressionError

TEXTS = (
    "Hello 123 world  44", "x1y22 z333.4444", "  two  spaces\n\n\nlines\t tab ",
    "I'll, they've; don't! (ok)", "naïve café 東京 Ω 🙂", "def f(n):\n    return n**2  # 10%",
    "<|end|> and <|im_end|> here", "1", " ", "ALL CAPS and CamelCase_snake-kebab/0x1F",
)  # fmt: skip
PROMPTS = {
    "smollm2": ["Once upon a time, there was a little", "<|im_start|>user\n"
                "What is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
                "def fibonacci(n):\n", "Water boils at"],
    "bundled": ["Story: Ada puts the lamp", "Mara has 12 plums. She", "The ", "Question: Where"],
}  # fmt: skip
# largest difference of a log-probability, largest surprise
WHOLE = {"F32": (2e-3, 0.01), "F16": (0.03, 0.01)}
ROUNDED = (0.8, 0.5)  # the same where llama.cpp rounds activations
SIZES = {"vocab_size": 1026, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2,
         "intermediate_size": 512, "max_position_embeddings": 512}  # fmt: skip


@torch.no_grad()
def ours(model, tokenizer, prompt: str, n: int) -> list[int]:
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0
    )
    return out[0, ids.shape[1] :].tolist()


@torch.no_grad()
def compare(model, tokenizer, prompts, file: Path, n: int) -> dict:
    """What llama.cpp said of `file` (FILE.json) against `model` and `tokenizer`, which are what was
    read from the same file.

    texts: how many of TEXTS have the same ids. same: how many prompts have the same greedy tokens.
    surprise: the largest (best − theirs) of our log-probabilities along their text. logs: the
    largest difference of a chosen token's log-probability.
    """
    said = json.loads(Path(f"{file}.json").read_text())
    same, surprise, logs, ends = 0, 0.0, 0.0, {tokenizer.eos_token_id}
    for prompt, theirs in zip(prompts, said["greedy"], strict=True):
        mine = ours(model, tokenizer, prompt, n)
        same += [i for i in mine if i not in ends] == [i for i in theirs["ids"] if i not in ends]
        start = tokenizer(prompt)["input_ids"]
        found = (
            model(torch.tensor([start + theirs["ids"]]))
            .logits[0, len(start) - 1 : -1]
            .double()
            .log_softmax(-1)
        )
        chosen = found.gather(1, torch.tensor(theirs["ids"])[:, None])[:, 0]
        surprise = max(surprise, float((found.max(1).values - chosen).max()))
        told = torch.tensor(theirs["logs"]).double()
        logs = max(logs, float((chosen[: len(told)] - told).abs().max()))
    texts = sum(
        tokenizer(t)["input_ids"] == ids for t, ids in zip(TEXTS, said["tokens"], strict=True)
    )
    return {"texts": texts, "same": same, "surprise": surprise, "logs": logs}


def tiny(kind: str) -> torch.nn.Module:
    """A random model whose biases and norms matter, with the bundled model's vocabulary."""
    torch.manual_seed(0)
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                **SIZES, head_dim=32 if "narrow" in kind else 64, tie_word_embeddings="tied" in kind
            )
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def subjects() -> dict:
    """name → (model, tokenizer); SmolLM2 where `make real` has brought it."""
    net, words = models.load("bundled")
    found = {
        "bundled": (net, words),
        **{kind: (tiny(kind), words) for kind in ("llama", "tied llama, narrow heads", "qwen2")},
    }
    try:
        found["smollm2"] = models.load("smollm2")
    except CompressionError as error:
        print(error)
    return found


def run(ask: Callable, work: Path, n: int = 50) -> int:
    """Every model in every type through llama.cpp; prints a table, and returns 1 if anything
    differs by more than its limit.
    """
    cases = []
    for name, (model, words) in subjects().items():
        for kind in gguf.TYPES:
            file = work / f"{name}-{kind}.gguf"
            try:
                gguf.write(model, file, words, type_name=kind)
                cases.append((name, kind, file))
            except CompressionError as error:
                print(f"{name} {kind}: refused ({error})")
    prompts = {name: PROMPTS.get(name, PROMPTS["bundled"]) for name, *_ in cases}
    errors = ask(
        [
            {"file": str(file), "prompts": prompts[name], "texts": TEXTS, "n": n}
            for name, _, file in cases
        ],
        work,
    )
    failures = 0
    print(f"{'':32}texts   same greedy text ({n} tokens)   surprise   log-probabilities")
    for (name, kind, file), error in zip(cases, errors, strict=True):
        if error:
            print(f"{name + ' ' + kind:32}{error}")
            failures += 1
            continue
        found = compare(gguf.read(file), gguf.read_tokenizer(file), prompts[name], file, n)
        logs, surprise = WHOLE.get(kind, ROUNDED)
        # elsewhere llama.cpp rounds activations
        whole = found["same"] == len(prompts[name]) or kind != "F32"
        wrong = (
            found["texts"] < len(TEXTS)
            or found["logs"] > logs
            or found["surprise"] > surprise
            or not whole
        )
        failures += wrong
        print(f"{name + ' ' + kind:32}{found['texts']:2} of {len(TEXTS)}{found['same']:8} of "
              f"{len(prompts[name])}"
              f"{found['surprise']:28.3f}{found['logs']:12.4f}{'   DIFFERS' if wrong else ''}",
              flush=True)  # fmt: skip
    print(f"{len(cases) - failures} of {len(cases)} files agree, {failures} differ")
    return int(failures > 0)
