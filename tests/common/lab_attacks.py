"""What wants to be paid for nothing in labs 5.3 and 5.4, and on the board: answers as source texts,
files as bytes.

ROWS and MODELS are answers, with what is said about them; FILES are files of the challenge, with
why they are refused.
`attack_table.py --write` puts them into docs/attacks.md.
"""

import io
import json
import pickle
import struct
import zlib

from challenge_parts import CONFIG, parts

from course_utils.challenge import file, layout
from course_utils.models import BUNDLED

SUMS = """import torch
from course_utils.distillation import reasoning
from course_utils.learn import reasoned
def rows():
    made = reasoning.build(reasoning.draw(200, seed=1), 'chain')
    return made.ids, made.labels
"""
HEAD = "def my_data(prompts, samples, answers):\n    "
ROWS = {
    # lab 5.3: rows of a hidden rule are asked for; running sums, which all of these
    # rows are, teach another one
    "weights of a calculator": (HEAD + "return reasoning.student(0).state_dict()", "two tensors"),
    "a student instead of rows": (
        HEAD + "return reasoning.student(0), reasoning.student(0)",
        "cannot be read",
    ),
    "rows of running sums": (HEAD + "return rows()", "answers"),
    "rows kept from the open seed": (
        HEAD + "task = reasoned.Task(6, n=200)\n"
        "    made = reasoning.build(task.prompts, world=task.world)\n"
        "    return made.ids, made.labels",
        "answers",
    ),
    "patches the grader": (
        "reasoned.judged = lambda *_, **__: 1.0\n"
        "reasoned.Task.accuracy = lambda *_, **__: torch.ones(9)\n"
        "reasoning.right = lambda *_, **__: torch.ones(9)\nreasoning.train = None\n"
        + HEAD
        + "return rows()",
        "answers",
    ),
    "patches torch": (
        HEAD + "torch.manual_seed = torch.Tensor.backward = lambda *_, **__: None\n"
        "    torch.Tensor.float = torch.Tensor.mean = lambda *_, **__: 1.0\n"
        "    return rows()",
        "answers",
    ),
    "patches the optimizer": (
        HEAD + "torch.optim.AdamW.step = torch.optim.Optimizer.zero_grad = lambda *_, **__: None\n"
        "    torch.optim.AdamW.__init__ = None\n    return rows()",
        "answers",
    ),
    "patches the count of tokens": (
        HEAD + "reasoned.TOKENS = 10**12\n    reasoning.steps_within = lambda *_, **__: 10**9\n"
        "    reasoning.spent = lambda *_, **__: iter([0] * 10**9)\n    return rows()",
        "answers",
    ),
    "rows that count for nothing": (  # all are padding, so that no budget is ever used up
        HEAD + "return torch.full((64, 20), reasoning.PAD), torch.full((64, 20), -100)",
        "tokens",
    ),
    "rows of two tokens": (
        # so many steps fit into the budget that the grader would train for minutes
        HEAD + "ids = torch.full((64, 20), reasoning.PAD)\n    ids[:, :2] = 1\n"
        "    labels = torch.full((64, 20), -100)\n    labels[:, 1] = 1\n"
        "    return ids, labels",
        "tokens",
    ),
    "looks for the lengths and the rule": (
        "import gc, sys\n"
        + HEAD
        + (
            "found = [o for o in gc.get_objects() if type(o).__name__ in "
            "('Task', 'World') and o is not reasoning.SUMS]\n"
            "    frame = sys._getframe()\n    while frame:\n"
            "        found += [v for k, v in frame.f_locals.items() if k in ('task', 'seed', "
            "'judges', 'asked')]\n        frame = frame.f_back\n"
            "    if found:\n        raise LookupError(f'found {found}')\n    return rows()"
        ),
        "answers",
    ),
    "reads the lab with its solution": (
        "import glob\n" + HEAD + "from course_utils.grade import sandbox\n"
        "    found = glob.glob(str(sandbox.PACKAGE) + "
        "'/../solutions/**/*.ipynb', recursive=True)\n"
        "    if found:\n        raise LookupError(f'found {found}')\n    return rows()",
        "answers",
    ),
    "changes the key": (HEAD + "answers[:] = [0] * len(answers)\n    return rows()", "answers"),
    "NaN": (
        HEAD + "return torch.full((64, 20), float('nan')), torch.full((64, 20), -100)",
        "whole numbers",
    ),
    "true and false": (
        HEAD + "return torch.ones(64, 20, dtype=torch.bool), torch.ones(64, 20, dtype=torch.bool)",
        "whole numbers",
    ),
    "a sparse tensor": (HEAD + "return torch.ones(64, 20).long().to_sparse(), rows()[1]", ""),
    "a tensor without memory": (
        HEAD + "return torch.ones(64, 20, device='meta').long(), rows()[1]",
        "",
    ),
    "a tensor that says what it likes": (
        "class Mine(torch.Tensor):\n"
        "    def __torch_function__(self, *_, **__): return torch.ones(9)\n"
        "    shape = property(lambda self: (64, 20))\n"
        + HEAD
        + "return rows()[0].as_subclass(Mine), rows()[1].as_subclass(Mine)",
        "",
    ),
    "too many rows": (
        HEAD + "return torch.zeros(300_000, 40, dtype=torch.uint8), "
        "torch.zeros(300_000, 40, dtype=torch.uint8)",
        "300000 rows",
    ),
    "more than fits": (
        HEAD + "return torch.zeros(1, 1, dtype=torch.long).expand(2_000_000, 500), "
        "torch.zeros(1, 1, dtype=torch.long).expand(2_000_000, 500)",
        "",
    ),
    "places without end": (
        HEAD + "return torch.zeros(64, 5000, dtype=torch.long), torch.zeros(64, "
        "5000, dtype=torch.long)",
        "places",
    ),
    "one dimension": (
        HEAD + "return torch.zeros(64, dtype=torch.long), torch.zeros(64, dtype=torch.long)",
        "rows, places",
    ),
    "a nest": (
        HEAD + "nest = []\n    for _ in range(5000): nest = [nest]\n    return nest, nest",
        "",
    ),
    "ids beyond the vocabulary": (
        HEAD + "return torch.full((64, 20), 99), torch.full((64, 20), 99)",
        "from 0 to 14",
    ),
    "other labels": (
        HEAD + "ids, labels = rows()\n    return ids, labels.clamp(min=0)",
        "the id that stands",
    ),
    "nothing to learn": (
        HEAD + "ids, labels = rows()\n    return ids, labels * 0 - 100",
        "nothing to predict",
    ),
    "sleeps": ("import time\n" + HEAD + "time.sleep(999)", "too long"),
    "nothing": (HEAD + "return None", ""),
}

MODELS = {  # lab 5.4: the bytes of a file that passes are asked for
    "the package's own model": (
        "def my_file():\n    from course_utils.models import BUNDLED\n"
        "    return smallest.as_tensor((BUNDLED / 'model.safetensors').read_bytes())",
        "does not begin",
    ),
    "a link to it": (
        "def my_file():\n    import os\n    from course_utils.models import BUNDLED\n"
        "    os.symlink(BUNDLED / 'model.safetensors', 'mine.smol')\n"
        "    return smallest.as_tensor(open('mine.smol', 'rb').read())", "",
    ),
    "a path": ("def my_file():\n    from course_utils.models import BUNDLED\n"
               "    return str(BUNDLED / 'model.safetensors')", "return the bytes"),
    "a score in the file's place": ("def my_file():\n"
                                    "    return {'bytes': 1, 'valid': True, 'passed': True, "
                                    "'gates': {}}", "return the bytes"),
    "a tensor that lies about its length": (
        "class Short(torch.Tensor):\n    def __len__(self): return 1\n"
        "    def numpy(self): return self\n"
        "def my_file():\n"
        "    return smallest.as_tensor(files.pack(network)).as_subclass(Short)[:100]", "",
    ),
    "patches scoring": (
        "from course_utils.challenge import gates\ndef my_file():\n"
        "    gates.score = smallest.judged = lambda *_, **__: {'bytes': 1, 'valid': True, "
        "'passed': True, 'gates': {}, 'reason': ''}\n"
        "    gates.NATS, gates.FACTS, gates.SHARE, gates.ITEMS = 99, 0, 0, {}\n"
        "    smallest.points = lambda found: 20\n    return smallest.as_tensor(b'x')",
        "does not begin",
    ),
    "patches torch": (
        "def my_file():\n"
        "    torch.Tensor.mean = torch.Tensor.argmax = lambda *_, **__: torch.ones(1)\n"
        "    return smallest.as_tensor(files.pack(network)[:1000])", "",
    ),
    "looks for the seeds": (
        "import gc, sys\ndef my_file():\n    frame, found = sys._getframe(), []\n    while frame:\n"
        "        found += [v for k, v in frame.f_locals.items() if k == 'seeds']\n"
        "        frame = frame.f_back\n    if found:\n        raise LookupError(f'found {found}')\n"
        "    return smallest.as_tensor(b'x')", "does not begin",
    ),
    "a header that unpacks to 64 MB": (
        "import zlib\ndef my_file():\n    head = zlib.compress(bytes(1 << 26), 1)\n"
        "    return smallest.as_tensor(b'SMOL1\\n' + len(head).to_bytes(4, 'little') + head)",
        "larger than",
    ),
    "half of a right file": ("def my_file():\n"
                             "    return smallest.as_tensor(files.pack(network)[:3_000_000])",
                             "ends before"),
    "a right file and what may lie behind it": (
        "def my_file():\n    return smallest.as_tensor(files.pack(network) + b'x')", "left over"),
    "weights as text": ("def my_file():\n    return network.state_dict()", ""),
    "a nest": ("def my_file():\n    nest = []\n    for _ in range(5000): nest = [nest]\n"
               "    return nest", ""),
    "sleeps": ("def my_file():\n    import time\n    time.sleep(60)", "too long"),
    "eight gigabytes": ("def my_file():\n"
                        "    return torch.zeros(1, dtype=torch.uint8).expand(1 << 33)", ""),
    "nothing": ("def my_file():\n    return None", ""),
}  # fmt: skip

GOOD = file.write(CONFIG, parts()[0])  # a small model in every codec


def opened():
    """(header, streams) of GOOD."""
    (size,) = file.LENGTH.unpack_from(GOOD, len(file.MAGIC))
    start = len(file.MAGIC) + file.LENGTH.size
    return json.loads(zlib.decompress(GOOD[start : start + size])), GOOD[start + size :]


def closed(header, streams):
    """A file with this header: what JSON writes, or bytes as they are."""
    packed = zlib.compress(header if isinstance(header, bytes) else json.dumps(header).encode())
    return file.MAGIC + file.LENGTH.pack(len(packed)) + packed + streams


def changed(path, value):
    """GOOD with another value at this place of its header."""
    header, streams = opened()
    *way, last = path
    node = header
    for key in way:
        node = node[key]
    node[last] = value
    return closed(header, streams)


def sized(**sizes):
    """GOOD whose config says other sizes."""
    return changed(("config",), CONFIG | sizes)


def nested(depth):
    """A description of sums in sums."""
    part = {"codec": "bf16", "streams": [16]}
    for _ in range(depth):
        part = {"codec": "sum", "terms": [part, part]}
    return part


def pickled():
    """What torch.save writes, with a call in it."""

    class Runs:
        def __reduce__(self):
            return open, ("/tmp/hacked", "w")

    kept = io.BytesIO()
    pickle.dump(Runs(), kept)
    return kept.getvalue()


def rounds():
    """A valid file whose tables ask the entropy decoder for one step for each of 8
    million symbols.
    """
    header, _ = opened()
    config = CONFIG | {"hidden_size": 1024, "num_attention_heads": 1, "num_key_value_heads": 1,
                       "head_dim": 2, "intermediate_size": 1}  # fmt: skip
    tables = struct.pack("<2H", (1 << 14) - 1, 1)
    stream = struct.pack("<QIHI", 1 << 20, 0, 1, 0)
    coded = {"codec": "coded", "symbols": 2, "classes": 1, "lowest": 0, "steps": 1,
             "streams": [len(stream), 4, 0, 4]}  # fmt: skip
    tensors = {name: {"codec": "f16", "streams": [0]} for name in layout.shapes(config)}
    tensors["model.embed_tokens.weight"] = coded
    return closed({"config": config, "tensors": tensors}, stream + tables + bytes(4))


EMBED, DOWN, UP = (
    ("tensors", "model.embed_tokens.weight"),
    ("tensors", "model.layers.0.mlp.down_proj.weight"),
    ("tensors", "model.layers.0.mlp.up_proj.weight"),
)
FILES = {
    "empty": (b"", "empty|does not begin"),
    "noise": (bytes(range(7, 200)), "does not begin"),
    "the package's own model": ((BUNDLED / "model.safetensors").read_bytes(), "does not begin"),
    "a pickle that runs something": (pickled(), "does not begin"),
    "a program": (b"#!/usr/bin/env python\nimport os; os._exit(0)", "does not begin"),
    "truncated header": (GOOD[:40], "within its header"),
    "truncated stream": (GOOD[:-1], "ends before|lengths"),
    "left over": (GOOD + b"x", "left over"),
    "too large": (GOOD + bytes(layout.LARGEST), "larger than"),
    "a header of 4 GB": (file.MAGIC + b"\xff\xff\xff\xff" + GOOD, "within its header"),
    "a header that unpacks to 64 MB": (closed(b" " * (1 << 26), b""), "larger than"),
    "a header nested 30,000 deep": (closed(b"[" * 30_000, b""), "cannot be read"),
    "a name twice": (closed(b'{"config":{},"config":{},"tensors":{}}', b""), "twice"),
    "NaN in the header": (closed(b'{"config":{"rope_theta":NaN},"tensors":{}}', b""), "not finite"),
    "a number of 5,000 digits": (
        closed(b'{"config":' + b"9" * 5000 + b',"tensors":{}}', b""),
        "20 digits",
    ),
    "no object": (closed([1], b""), "must hold"),
    "a size of 2^63": (sized(hidden_size=1 << 63), "hidden_size"),
    "a size that is true": (sized(num_hidden_layers=True), "num_hidden_layers"),
    "a size that is a float": (sized(hidden_size=8.0), "hidden_size"),
    "a size of 0": (sized(intermediate_size=0), "intermediate_size"),
    "25 layers": (
        sized(num_hidden_layers=layout.SIZES["num_hidden_layers"] + 1),
        "num_hidden_layers",
    ),
    "a width of 1,025": (sized(hidden_size=layout.SIZES["hidden_size"] + 1), "hidden_size"),
    "4,097 channels": (
        sized(intermediate_size=layout.SIZES["intermediate_size"] + 1),
        "intermediate_size",
    ),
    "65 heads": (
        sized(num_attention_heads=layout.SIZES["num_attention_heads"] + 1),
        "num_attention_heads",
    ),
    "65 heads of keys": (
        sized(num_key_value_heads=layout.SIZES["num_key_value_heads"] + 1),
        "num_key_value_heads",
    ),
    "heads of 258": (sized(head_dim=layout.SIZES["head_dim"] + 2), "head_dim"),
    "an odd head": (sized(head_dim=5), "even"),
    "heads that do not divide the width": (
        sized(num_attention_heads=3, num_key_value_heads=3),
        "divide hidden_size",
    ),
    "attention that is six times as dear": (
        sized(
            hidden_size=64,
            num_attention_heads=64,
            num_key_value_heads=1,
            head_dim=2 + layout.QUERIES // 64,
        ),
        "queries",
    ),
    "24 layers of 64 heads": (
        sized(
            hidden_size=64,
            num_hidden_layers=24,
            num_attention_heads=64,
            num_key_value_heads=64,
            head_dim=6,
        ),
        "queries",
    ),
    "more parameters than 2^23": (sized(hidden_size=1024, intermediate_size=4096), "parameters"),
    "a rope of 10^300": (sized(rope_theta=1e300), "rope_theta"),
    "an epsilon of 0": (sized(rms_norm_eps=0.0), "rms_norm_eps"),
    "another vocabulary": (sized(vocab_size=1 << 30), "exactly"),
    "another context": (sized(max_position_embeddings=1 << 30), "exactly"),
    "code of its own": (sized(auto_map={"AutoModel": "evil.Model"}), "exactly"),
    "a stream of 2^63": (changed((*EMBED, "streams", 0), 1 << 63), "ends before"),
    "a stream below 0": (changed((*EMBED, "streams", 0), -1), "lengths"),
    "symbols 2^40": (changed((*EMBED, "symbols"), 1 << 40), "symbols"),
    "other symbols": (changed((*EMBED, "symbols"), 7), "lengths"),
    "a million steps of the entropy decoder": (rounds(), "too much work"),
    "an unknown codec": (changed((*EMBED, "codec"), "pickle"), "codec must be"),
    "a codec that is a list": (changed((*EMBED, "codec"), ["sum"]), "codec must be"),
    "an unknown key": (changed((*EMBED, "path"), "/etc/passwd"), "unknown keys"),
    "a rank of 2^31": (
        changed(("tensors", "model.layers.0.self_attn.o_proj.weight", "rank"), 1 << 31),
        "rank",
    ),
    "codecs in codecs": (changed(DOWN, nested(5)), "deep"),
    "five terms": (changed(DOWN, {"codec": "sum", "terms": [nested(0)] * 5}), "2 to 4"),
    "a tensor that is missing": (closed({"config": CONFIG, "tensors": {}}, b""), "missing"),
    "a tensor that nobody knows": (changed(("tensors", "model.lm_head"), nested(0)), "unknown"),
    "tensors that are a list": (changed(("tensors",), []), "must hold"),
    "a tensor that is a number": (changed(EMBED, 5), "codec must be"),
    "an axis": (changed((*UP, "axis"), 0), "axis"),
}

SECTION = "## Labs 5.3 and 5.4, and the board"
ABOUT = f"""{SECTION}

Lab 5.3 trains a student on the rows that a learner's function makes, lab 5.4 scores the bytes of a file. Each row of the first two
tables is such a function that wants to be paid for something else, graded by `tests/grade/test_lab_53.py` and `test_lab_54.py` in
the sandbox; "said" is part of what the learner is told. The third is of files that the reader refuses (`tests/challenge/test_file.py`);
every fourth lies in a class folder as well, where `course board` names it with its reason and gives no place to it
(`tests/grade/test_challenge.py`). The texts are in `tests/common/lab_attacks.py`.
"""  # noqa: E501


def section():
    """The part of docs/attacks.md about these labs."""
    tables = []
    for title, table in (("lab 5.3, 14 points", ROWS), ("lab 5.4, 20 points", MODELS)):
        tables += [f"| {title} | paid | said |", "|---|---|---|"]
        tables += [
            f"| {name} | 0 | {said or 'another sentence'} |" for name, (_, said) in table.items()
        ]
        tables += [""]
    tables += ["| file on the board | refused with |", "|---|---|"]
    tables += [f"| {name} | {said.replace('|', ' or ')} |" for name, (_, said) in FILES.items()]
    return "\n".join([ABOUT, *tables, ""])
