"""GGUF files through llama.cpp: the same tokens of a text, and the same greedy text as the model read here.

llama.cpp rounds activations to 8 bits before a product with quantized weights; there, two tokens that are nearly as likely
may change places. So each of its tokens is also compared by how much less likely it is here than the best one.
"""

import json
from pathlib import Path

import torch

TEXTS = (
    "Hello 123 world  44", "x1y22 z333.4444", "  two  spaces\n\n\nlines\t tab ", "I'll, they've; don't! (ok)", "naïve café 東京 Ω 🙂",
    "def f(n):\n    return n**2  # 10%", "<|end|> and <|im_end|> here", "1", " ", "ALL CAPS and CamelCase_snake-kebab/0x1F",
)  # fmt: skip


@torch.no_grad()
def ours(model, tokenizer, prompt: str, n: int) -> list[int]:
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0)
    return out[0, ids.shape[1] :].tolist()


@torch.no_grad()
def compare(model, tokenizer, prompts, file: Path, n: int) -> dict:
    """What llama.cpp said of `file` (FILE.json) against `model` and `tokenizer`, which are what was read from the same file.

    texts: how many of TEXTS have the same ids. same: how many prompts have the same greedy tokens. surprise: the largest
    (best − theirs) of our log-probabilities along their text. logs: the largest difference of a chosen token's
    log-probability.
    """
    said = json.loads(Path(f"{file}.json").read_text())
    same, surprise, logs, ends = 0, 0.0, 0.0, {tokenizer.eos_token_id}
    for prompt, theirs in zip(prompts, said["greedy"], strict=True):
        mine = ours(model, tokenizer, prompt, n)
        same += [i for i in mine if i not in ends] == [i for i in theirs["ids"] if i not in ends]
        start = tokenizer(prompt)["input_ids"]
        found = model(torch.tensor([start + theirs["ids"]])).logits[0, len(start) - 1 : -1].double().log_softmax(-1)
        chosen = found.gather(1, torch.tensor(theirs["ids"])[:, None])[:, 0]
        surprise = max(surprise, float((found.max(1).values - chosen).max()))
        logs = max(logs, float((chosen - torch.tensor(theirs["logs"]).double()).abs().max()))
    texts = sum(tokenizer(t)["input_ids"] == ids for t, ids in zip(TEXTS, said["tokens"], strict=True))
    return {"texts": texts, "same": same, "surprise": surprise, "logs": logs}
