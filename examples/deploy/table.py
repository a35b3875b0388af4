"""One table of all runtimes: python examples/deploy/table.py [--write] [SCRIPT …]    (`make deploy`
makes the environment and calls it)

The same INT8 model in each runtime that is installed: loss on 64 windows of 64 tokens, bytes of the
file, tokens a second of a pass over 64 tokens, as a ratio to PyTorch's in the same turns: processor
time on one core, the same for all. `--write` keeps it in docs/deploy.md and for lesson 5.5; with
names of scripts only their rows are made anew.
"""

import importlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import common
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (
    "torch_compile",
    "onnx_runtime",
    "openvino_nncf",
    "torchao_int8",
    "neural_compressor_int8",
    "executorch_xnnpack",
    "core_ml",
    "tensorrt_engine",
)
TABLE = ROOT / "course_utils" / "learn" / "tables" / "plain" / "deploy.json"
MADE = ("python examples/deploy/table.py --write, script by script", "make deploy WRITE=--write")
HEAD = [
    "runtime",
    "file, MB",
    "nats a token",
    "largest difference of a logit",
    "speed on one core, PyTorch = 1",
    "note",
]


def built(work, scripts):
    """{name: Made} of PyTorch, `course_utils` and every script whose package is here; {name:
    sentence} of the others.
    """
    model, packed = common.original()[0], common.small()
    made = {
        "PyTorch, original in FP32": common.Made(
            sum(p.nbytes for p in set(model.parameters())),
            lambda row: model(input_ids=row, use_cache=False).logits,
            "The original.",
        ),
        "course_utils": common.Made(
            packed.bytes_on_disk,
            lambda row: packed.model(input_ids=row, use_cache=False).logits,
            "INT8, unpacked at each pass.",
        ),
    }
    absent = {}
    for script in map(importlib.import_module, scripts):
        if importlib.util.find_spec(script.NEEDS) is None:
            absent[script.NAME] = script.WITHOUT
        else:
            began = time.perf_counter()
            made[script.NAME] = script.make(work)
            print(
                f"{script.NAME}: made in {time.perf_counter() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return made, absent


@torch.no_grad()
def speeds(made, turns=25):
    """Tokens a second of processor time, the best of turns that go round all runtimes."""
    ids, best = common.windows()[:4], dict.fromkeys(made, float("inf"))
    for _ in range(turns):
        for name, run in made.items():
            began = time.process_time()
            common.logits(run, ids)
            best[name] = min(best[name], time.process_time() - began)
    return {name: len(ids) * common.TOKENS / seconds for name, seconds in best.items()}


def on_one_core():
    """Keep this process, and the threads that runtimes will start, on one core, where the system
    can: the same for all.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def merged(rows, scripts):
    """These rows, and the kept ones of the scripts that did not run, in the order of SCRIPTS."""
    kept = (
        json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
        if TABLE.exists() and set(scripts) != set(SCRIPTS)
        else []
    )
    by_name = {row[0]: row for row in [*kept, *rows]}
    order = [
        *(row[0] for row in rows[:2]),
        *(importlib.import_module(name).NAME for name in SCRIPTS),
    ]
    return [by_name[name] for name in order if name in by_name]


def main(write=False, scripts=SCRIPTS):
    on_one_core()
    with tempfile.TemporaryDirectory() as folder:
        made, absent = built(Path(folder), scripts)
        runs = {name: m.run for name, m in made.items() if m.run is not None}
        ids, fast = common.windows(), speeds(runs)
        ours, rows = common.of_ours(ids), []
        for name, m in made.items():
            found = common.logits(m.run, ids) if m.run else None
            gap = (
                ""
                if found is None or "original" in name
                else f"{float((found - ours).abs().max()):.0e}"
            )
            loss = "" if found is None else f"{common.nats(found, ids):.4f}"
            speed = f"{fast[name] / fast['PyTorch, original in FP32']:.2f}" if m.run else ""
            rows.append([name, f"{m.bytes / 1e6:.2f}", loss, gap, speed, m.note])
            if gap and float(gap) > common.LIMIT:
                sys.exit(f"{name}: logits differ by {gap} from the same weights in course_utils.")
    rows += [[name, "", "", "", "", f"Not installed: {advice}"] for name, advice in absent.items()]
    lines = [" | ".join(HEAD), "|".join("---" for _ in HEAD), *(" | ".join(row) for row in rows)]
    print("\n".join(f"| {line} |" for line in lines))
    if write:
        rows = merged(rows, scripts)
        lines = [*lines[:2], *(" | ".join(row) for row in rows)]
        keep = {
            "head": HEAD,
            "rows": rows,
            "command": MADE[set(scripts) == set(SCRIPTS)],
            "date": time.strftime("%Y-%m-%d"),
        }
        TABLE.write_text(json.dumps(keep, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page = ROOT / "docs" / "deploy.md"
        above = page.read_text(encoding="utf-8").split("<!-- table -->")[0]
        page.write_text(
            above
            + "<!-- table -->\n\n"
            + "\n".join(f"| {line} |" for line in lines)
            + f"\n\nMade by `{keep['command']}` on {keep['date']}.\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main("--write" in sys.argv, tuple(a for a in sys.argv[1:] if a in SCRIPTS) or SCRIPTS)
