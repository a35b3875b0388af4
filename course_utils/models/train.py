"""Train a Llama-architecture language model on the bundled world.

    python -m course_utils.models.train --out runs/bundled

A killed run continues where its last checkpoint stands: give the same command again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from course_utils.errors import CompressionError

from .checkpointing import load_checkpoint, read_notes, save_checkpoint, write_text
from .copying import plant_copying
from .data import answers_only, mean_loss, token_windows
from .tokenizer import train_tokenizer

COPIED_FROM_TEXT = ("stories", "instructions", "entailment")


def build(
    *, vocabulary: int, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, seed: int
) -> LlamaForCausalLM:
    """A randomly initialized Llama model with tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=mlp,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def learning_rate(
    step: int, steps: int, peak: float, warmup: int = 200, decay: float = 0.35
) -> float:
    """Linear warm-up, then constant, then linear to zero over the last `decay` of the run."""
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / max(1, decay * steps))


def last_line(log: Path, checkpoint: Path) -> dict[str, float]:
    """The line of the log that a checkpoint belongs to; lines beyond it, or cut off by a kill, are
    dropped.

    Step 0 without a checkpoint.
    """
    start = {"step": 0, "train": 0.0, "seconds": 0.0}
    if not checkpoint.exists():
        log.unlink(missing_ok=True)
        return start
    step = int(read_notes(checkpoint)["step"])
    whole = (
        [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if log.exists()
        else []
    )
    kept = [line for line in map(json.loads, whole) if line["step"] <= step]
    write_text(log, "".join(f"{json.dumps(line)}\n" for line in kept))
    return {**start, **(kept[-1] if kept else {}), "step": step}


def check_settings(record: Path, settings: dict[str, Any], resumed: bool) -> None:
    """Write the settings of a new run, and refuse to go on with a run of other settings."""
    if resumed and record.exists():
        before = json.loads(record.read_text())
        changed = [
            f"{k} {before[k]} instead of {v}"
            for k, v in settings.items()
            if k != "every" and before.get(k, v) != v
        ]
        if changed:
            raise CompressionError(
                f"{record.parent}: holds a run with {', '.join(changed)}; choose another --out."
            )
    write_text(record, json.dumps(settings, indent=1))


def train(
    out: str | Path, *, tokens: int = 14_000_000, batch: int = 16, context: int = 256,
    peak: float = 1e-3, hidden: int = 256, layers: int = 5, heads: int = 8, kv_heads: int = 4,
    mlp: int = 512, seed: int = 0, bf16: bool = True, every: int = 250, answers_first: int = 150,
) -> LlamaForCausalLM:  # fmt: skip
    """Train and save to `out`: model.safetensors (bfloat16), config, tokenizer, training.json
    (these settings), log.jsonl.

    `tokens` is rounded down to whole batches of `batch` × `context`. A checkpoint and a line of the
    log (step, tokens, train and validation nats per token, seconds) are written `every` steps. With
    the same seed an interrupted run ends with the same weights as an uninterrupted one. `bf16` runs
    the matrix products in bfloat16 (weights and optimizer stay in float32); on a CPU without
    bfloat16 instructions turn it off.
    The model starts with `plant_copying`, and the first `answers_first` steps learn only the
    answers of documents whose answer is in their text (COPIED_FROM_TEXT), so that the planted heads
    are put to use before all else is learnt.
    """
    settings = {key: value for key, value in locals().items() if key != "out"}
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    steps = tokens // (batch * context)
    if steps < 1:
        raise CompressionError(
            f"tokens={tokens}: less than one batch of {batch * context}; ask for more."
        )
    checkpoint, log = out / "checkpoint.safetensors", out / "log.jsonl"
    check_settings(out / "training.json", settings, checkpoint.exists())
    tokenizer = train_tokenizer()
    model = build(
        vocabulary=len(tokenizer),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        mlp=mlp,
        seed=seed,
    )
    if answers_first:
        plant_copying(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    done = last_line(log, checkpoint)
    start = int(done["step"])
    if start:
        load_checkpoint(checkpoint, model, optimizer)
    first = min(answers_first, steps)
    copied = token_windows(tokenizer, "train", first * batch, context, seed, kinds=COPIED_FROM_TEXT)
    data = torch.cat(
        [copied, token_windows(tokenizer, "train", (steps - first) * batch, context, seed)]
    ).short()
    answers = answers_only(tokenizer, copied)
    validation = token_windows(tokenizer, "validation", 64, context, seed)
    model.train()
    began, running = time.perf_counter() - done["seconds"], done["train"]
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="training", mininterval=2)
    for step in bar:
        ids = data[step * batch : (step + 1) * batch].long()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            labels = ids if step >= first else answers[step * batch : (step + 1) * batch]
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running = (
            float(loss.detach()) if running == 0 else 0.98 * running + 0.02 * float(loss.detach())
        )
        if (step + 1) % every == 0 or step + 1 == steps:
            line = {
                "step": step + 1,
                "tokens": (step + 1) * batch * context,
                "train": round(running, 4),
                "validation": round(mean_loss(model, validation), 4),
                "seconds": round(time.perf_counter() - began, 1),
            }
            bar.set_postfix(validation=line["validation"])
            save_checkpoint(checkpoint, model, optimizer, step + 1)
            with log.open("a") as f:
                f.write(json.dumps(line) + "\n")
    export(model, tokenizer, out)
    return model


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write an ordinary Hugging Face folder in bfloat16."""
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", required=True, help="folder for the model, its log and the checkpoint"
    )
    for name, value in (("tokens", 14_000_000), ("batch", 16), ("context", 256), ("hidden", 256),
                        ("layers", 5),
                        ("heads", 8), ("kv-heads", 4), ("mlp", 512), ("seed", 0), ("every", 250),
                        ("answers-first", 150)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument(
        "--peak", type=float, default=1e-3, help="highest learning rate, default 0.001"
    )
    parser.add_argument("--no-bf16", dest="bf16", action="store_false", help="float32 products")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
