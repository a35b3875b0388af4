"""Runs beside llama.cpp (the package xllamacpp, nothing else): greedy text and tokens of GGUF
files.

jobs.json: [{"file", "prompts", "texts", "n"}] → answers.json: for each "" or what went wrong; the
results go to FILE.json:
"greedy": for each prompt the ids of at most n tokens and the first ones' log-probabilities,
"tokens": for each text its ids.
Keys and values are kept in float32 and flash attention is off, so that files of real numbers are
computed in single precision.
"""

import json
import sys
import urllib.request
from pathlib import Path

import xllamacpp as llama


def server(file: str) -> llama.Server:
    asked = llama.CommonParams()
    asked.model.path, asked.n_ctx, asked.n_parallel = file, 1024, 1
    asked.warmup, asked.offline, asked.verbosity, asked.cpuparams.n_threads = False, True, -1, 1
    asked.cache_type_k = asked.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    asked.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return llama.Server(asked)


def post(running: llama.Server, path: str, **body) -> dict:
    """The server listens on this machine only (127.0.0.1)."""
    request = urllib.request.Request(
        running.listening_address + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def answer(job: dict) -> dict:
    running = server(job["file"])
    tokens = [
        post(running, "/tokenize", content=t, add_special=True, parse_special=True)["tokens"]
        for t in job["texts"]
    ]
    greedy = []
    for prompt in job["prompts"]:
        found = post(
            running,
            "/completion",
            prompt=prompt,
            n_predict=job["n"],
            temperature=0,
            n_probs=1,
            cache_prompt=False,
            return_tokens=True,
        )
        # the server leaves out steps that end inside a character
        ids, steps = found["tokens"], found["completion_probabilities"]
        whole = next(
            (i for i, (a, s) in enumerate(zip(ids, steps, strict=False)) if a != s["id"]),
            min(len(ids), len(steps)),
        )
        greedy.append(
            {"ids": ids, "logs": [s["logprob"] for s in steps[:whole]], "text": found["content"]}
        )
    return {"greedy": greedy, "tokens": tokens}


def main(jobs: Path) -> None:
    answers = []
    for job in json.loads(jobs.read_text()):
        try:
            Path(job["file"] + ".json").write_text(json.dumps(answer(job)))
            answers.append("")
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    (jobs.parent / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
