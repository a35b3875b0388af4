"""Ways to hand in a right answer that Jupyter and Python users write.

Each is accepted by the check and by the grader.

Each form is a list of cells; a name before `|` is where the cell goes: the answer cell of that
exercise, `new` for a cell of the learner's own just before the exercise's answer, `below` for one
after it, `first` for the lab's first cell, with `{}` for what is in it. The forms answer `hessian`;
the other exercises of the small lab are answered as usual, unless they are named.

    python tests/common/forms.py --write docs/attacks.md
"""

import argparse
import re
from pathlib import Path

from grading import ANSWERS

GOOD = ANSWERS["hessian"]
BODY = "return 2 / len(x) * (x.T @ x)"


def indented(source: str, by: str = "    ") -> str:
    return "\n".join(by + line for line in source.split("\n"))


def prompted(source: str) -> str:
    first, *rest = source.split("\n")
    return "\n".join([f">>> {first}", *(f"... {line}" for line in rest)])


FORMS: dict[str, dict[str, str]] = {
    "as it is asked for": {"hessian": GOOD},
    "a cell that is indented": {"hessian": indented(GOOD)},
    "pasted from a Python session": {"hessian": prompted(GOOD)},
    "pasted from IPython": {"hessian": "In [1]: " + GOOD.replace("\n", "\n   ...: ")},
    "a byte order mark": {"hessian": "\ufeff" + GOOD},
    "line ends of Windows": {"hessian": GOOD.replace("\n", "\r\n")},
    "half a character in a comment": {"hessian": f"# \ud83d\n{GOOD}"},
    "%%time": {"hessian": f"%%time\n{GOOD}"},
    "%%capture": {"hessian": f"%%capture said\n{GOOD}\nprint('x')"},
    "magics and a shell command": {"hessian": f"%precision 4\n!true\n{GOOD}\n%time 1 + 1"},
    "await at the top": {"hessian": f"import asyncio\nawait asyncio.sleep(0)\n{GOOD}"},
    "an async helper": {
        "hessian": "import asyncio\nasync def two():\n    return 2\n"
        "factor = await two()\ndef hessian(x):\n"
        "    return factor / len(x) * (x.T @ x)"
    },
    "from __future__ that a later cell needs": {
        "hessian": f"from __future__ import annotations\n{GOOD}",
        "double": "def double(x: Unknown) -> Unknown:\n    return 2 * x",
    },
    "an answer in a new cell below": {"below": GOOD},
    "a helper in the answer cell": {
        "hessian": "def products(x):\n    return x.T @ x\n\n"
        "def hessian(x):\n"
        "    return 2 / len(x) * products(x)"
    },
    "a helper in a cell of its own": {
        "new": "def products(x):\n    return x.T @ x",
        "hessian": "def hessian(x):\n    return 2 / len(x) * products(x)",
    },
    "imports and constants in a cell of its own": {
        "new": "import numpy as np\nfrom functools import partial\nFACTOR: float = 2.0\n"
        "TABLE = {'a': [1, -2.5], 'b': (torch.float64, None)}",
        "hessian": "def hessian(x):\n    assert np and partial and TABLE\n"
        "    return FACTOR / len(x) * (x.T @ x)",
    },
    "an import and a constant in the lab's first cell": {
        "first": "{}\nimport itertools\nTWO = 2",
        "hessian": "def hessian(x):\n    next(itertools.count())\n"
        "    return TWO / len(x) * (x.T @ x)",
    },
    "a helper that a later answer defines anew": {
        "hessian": "scale = 2\ndef helper(x):\n    return x.T @ x\ndef hessian(x):\n"
        "    return scale / len(x) * helper(x)",
        "double": "scale = 3\ndef helper(x):\n    return 2 * x\ndef double(x):\n"
        "    return helper(x)",
    },
    "a lambda": {"hessian": "hessian = lambda x: 2 / len(x) * (x.T @ x)"},
    "a partial": {
        "hessian": "from functools import partial\n"
        "hessian = partial(lambda c, x: c / len(x) * (x.T @ x), 2)"
    },
    "an object that is called": {
        "hessian": "class Hessian:\n    def __call__(self, x):\n"
        "        return 2 / len(x) * (x.T @ x)\n"
        "hessian = Hessian()"
    },
    "a method": {
        "hessian": "class Layer:\n    def hessian(self, x):\n"
        "        return 2 / len(x) * (x.T @ x)\nhessian = Layer().hessian"
    },
    "a module of torch": {
        "hessian": "class Hessian(torch.nn.Module):\n    def forward(self, x):\n"
        "        return 2 / len(x) * (x.T @ x)\nhessian = Hessian()"
    },
    "inference mode": {
        "hessian": "def hessian(x):\n    with torch.inference_mode():\n"
        "        return torch.einsum('ni,nj->ij', x, x) * 2 / x.size(0)"
    },
    "overloads": {
        "hessian": "from typing import overload\n@overload\ndef hessian(x: int): ...\n"
        f"@overload\ndef hessian(x: str): ...\n{GOOD}"
    },
    "tabs and line ends that are escaped": {
        "hessian": "def hessian(x):\n\treturn 2 / \\\n\t\tlen(x) * (x.T @ x)"
    },
    "a decorated function": {
        "hessian": "import functools\n@functools.lru_cache(maxsize=None)\n"
        "def two():\n    return 2\n@torch.no_grad()\n"
        f"def hessian(x):\n    {BODY.replace('2 /', 'two() /')}"
    },
    "torch.compile": {"hessian": f"@torch.compile(backend='eager')\ndef hessian(x):\n    {BODY}"},
    "torch.jit.script": {
        "hessian": "@torch.jit.script\ndef hessian(x):\n    return 2 / x.shape[0] * (x.t() @ x)"
    },
    "singledispatch": {
        "hessian": "from functools import singledispatch\n@singledispatch\n"
        "def hessian(x):\n    raise TypeError\n@hessian.register\n"
        f"def _(x: torch.Tensor):\n    {BODY}"
    },
    "a dataclass that is pickled": {
        "hessian": "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass Two:\n"
        "    value: int = 2\ndef hessian(x):\n"
        "    two = pickle.loads(pickle.dumps(Two()))\n"
        "    return two.value / len(x) * (x.T @ x)"
    },
    "an enum that is pickled": {
        "hessian": "import enum, pickle\nclass Factor(enum.Enum):\n    TWO = 2\ndef hessian(x):\n"
        "    return pickle.loads(pickle.dumps(Factor.TWO)).value / len(x) * (x.T @ x)"
    },
    "a data loader with workers": {
        "hessian": (
            "from torch.utils.data import DataLoader, TensorDataset\ndef hessian(x):\n"
            "    parts = [p.T @ p for (p,) in DataLoader(TensorDataset(x), batch_size=3, "
            "num_workers=2)]\n    return 2 / len(x) * sum(parts)"
        )
    },
    "threads": {
        "hessian": "from concurrent.futures import ThreadPoolExecutor\ndef work(x):\n"
        f"    {BODY}\ndef hessian(x):\n    with ThreadPoolExecutor(2) as pool:\n"
        "        return pool.submit(work, x).result()"
    },
    "numpy inside": {
        "hessian": "import numpy as np\ndef hessian(x):\n    a = x.numpy()\n"
        "    return torch.from_numpy(2 / np.float64(len(a)) * (a.T @ a))"
    },
    "single precision": {
        "hessian": "def hessian(x):\n    x = x.float()\n    return 2 * x.T @ x / x.shape[0]"
    },
    "type hints and a docstring": {
        "hessian": f'def hessian(x: "torch.Tensor") -> torch.Tensor:\n    """H."""\n    {BODY}'
    },
    "experiments below the answer": {
        "hessian": f"{GOOD}\nprint(hessian(torch.eye(2)))\ncheck('gptq.hessian', hessian)"
    },
    "an argument by position only": {"hessian": f"def hessian(x, /):\n    {BODY}"},
    "any arguments": {"hessian": f"def hessian(*given):\n    (x,) = given\n    {BODY}"},
    "arguments under any name": {
        "hessian": f"def hessian(**given):\n    x = given['x']\n    {BODY}"
    },
    "an argument by name only": {"hessian": f"def hessian(*, x):\n    {BODY}"},
    "anything, looked for by name": {
        "hessian": f"def hessian(*args, **kwargs):\n    x = kwargs['x']\n    {BODY}"
    },
    "anything, looked for by place": {
        "hessian": f"def hessian(*args, **kwargs):\n    x = args[0]\n    {BODY}"
    },
    "a decorator that says nothing of what it wraps": {
        "hessian": "def counted(f):\n"
        "    def inner(*args, **kwargs):\n        return f(*args, **kwargs)\n    return inner\n"
        f"@counted\ndef hessian(x):\n    {BODY}"
    },
    "functools.wraps, and a cache": {
        "hessian": "import functools\ndef counted(f):\n"
        "    @functools.wraps(f)\n"
        "    def inner(*args, **kwargs):\n"
        "        return f(*args, **kwargs)\n"
        "    return inner\n@counted\n"
        "@functools.lru_cache(maxsize=4)\n"
        f"def hessian(x):\n    {BODY}"
    },
    "an argument by place only, of another name": {
        "hessian": "def hessian(tokens, /):\n    return 2 / len(tokens) * (tokens.T @ tokens)",
        "double": "import operator\n"
        "from functools import partial\ndouble = partial(operator.mul, 2)",
    },
    "arguments more, with defaults": {
        "hessian": "def hessian(x, scale=2, *rest, dtype=None, **settings):\n"
        "    return scale / len(x) * (x.T @ x)"
    },
    "a partial by name, within a partial": {
        "hessian": "from functools import partial\n"
        "scaled = partial(lambda c, x, p: c / len(x) * (x.T @ x) ** p, p=1)\n"
        "hessian = partial(scaled, 2)"
    },
    "a class that is called": {
        "hessian": f"class hessian:\n    def __new__(cls, x):\n        {BODY}"
    },
    "static and class methods": {
        "hessian": "class Layer:\n    @staticmethod\n"
        f"    def hessian(x):\n        {BODY}\n"
        "hessian = Layer.hessian",
        "double": "class Twice:\n    times = 2\n"
        "    @classmethod\n    def of(cls, x):\n"
        "        return cls.times * x\ndouble = Twice.of",
    },
    "a static method as it is": {"hessian": f"@staticmethod\ndef hessian(x):\n    {BODY}"},
    "type hints that nobody defines": {
        "hessian": (
            "def hessian(x: 'Float[Tensor, \"n d\"]', *, eps: 'Unknown' = 0) -> "
            f"'Float[Tensor, \"d d\"]':\n    {BODY}"
        )
    },
    "a type variable": {
        "hessian": "from typing import TypeVar\n"
        "T = TypeVar('T', bound=torch.Tensor)\n"
        f"def hessian(x: T) -> T:\n    {BODY}"
    },
    "a lambda with a type": {
        "hessian": "from collections.abc import Callable\n"
        "hessian: Callable[[torch.Tensor], torch.Tensor] = lambda "
        "x: 2 / len(x) * (x.T @ x)"
    },
    "made by another function": {
        "hessian": f"def made():\n    def hessian(x):\n        {BODY}\n"
        "    return hessian\nhessian = made()"
    },
    "torch.vmap": {
        "hessian": "@torch.vmap\ndef squares(row):\n    return torch.outer(row, row)\n"
        "def hessian(x):\n    return 2 * squares(x).mean(0)"
    },
    "numpy.vectorize": {
        "hessian": GOOD,
        "double": "import numpy as np\n"
        "double = lambda x: np.vectorize(lambda n: 2 * n)(x).tolist() if "
        "not isinstance(x, list) else 2 * x",
    },
    "a generator, and what zip gives": {
        "double": "def double(x):\n    if isinstance(x, list):\n"
        "        return (item for _ in range(2) for item in x)\n"
        "    return 2 * x",
        "hessian": GOOD,
    },
    "what a shell command says": {"hessian": f"files = !true\nfound = len(files)\n{GOOD}"},
    "a pool of another context": {
        "hessian": (
            "import multiprocessing\ndef one(row):\n"
            "    return row[:, None] * row\ndef hessian(x):\n"
            "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
            "        return 2 / len(x) * sum(pool.map(one, x))"
        )
    },
    "joblib": {
        "hessian": "from joblib import Parallel, delayed\ndef one(row):\n"
        "    return row[:, None] * row\ndef hessian(x):\n"
        "    return 2 / len(x) * sum(Parallel(n_jobs=2)(delayed(one)(row) for "
        "row in x))"
    },
    "match": {
        "hessian": "def hessian(x):\n    match x.dim():\n        case 2:\n"
        "            return 2 / len(x) * (x.T @ x)"
    },
}

# no kernel runs the first, the others start processes
ONLY_GRADED = {"a byte order mark", "a pool of another context", "joblib"}

RESULTS: dict[str, str] = {
    # what a function may return where a mapping, a list and numbers are asked for:
    # {"a": [1, 2], "b": 0.5}
    "plain": "{'a': [1, 2], 'b': 0.5}",
    "a tuple": "{'a': (1, 2), 'b': 0.5}",
    "an OrderedDict": "collections.OrderedDict(b=0.5, a=[1, 2])",
    "a defaultdict": "collections.defaultdict(int, {'a': [1, 2], 'b': 0.5})",
    "a UserDict": "collections.UserDict({'a': [1, 2], 'b': 0.5})",
    "a proxy of a mapping": "types.MappingProxyType({'a': [1, 2], 'b': 0.5})",
    "a range": "{'a': range(1, 3), 'b': 0.5}",
    "a deque": "{'a': collections.deque([1, 2]), 'b': 0.5}",
    "a UserList": "{'a': collections.UserList([1, 2]), 'b': 0.5}",
    "a named tuple": "{'a': collections.namedtuple('P', 'x y')(1, 2), 'b': 0.5}",
    "NumPy's integers": "{'a': [np.int64(1), np.uint8(2)], 'b': np.float64(0.5)}",
    "NumPy's single precision": "{'a': [1, 2], 'b': np.float32(0.5)}",
    "NumPy's half precision": "{'a': [1, 2], 'b': np.float16(0.5)}",
    "NumPy's long double": "{'a': [1, 2], 'b': np.longdouble(0.5)}",
    "tensors of one number": "{'a': [torch.tensor(1), torch.tensor(2)], 'b': torch.tensor(0.5)}",
    "a fraction": "{'a': [1, 2], 'b': fractions.Fraction(1, 2)}",
    "a decimal": "{'a': [1, 2], 'b': decimal.Decimal('0.5')}",
    "an array of no dimension": "{'a': [1, 2], 'b': np.array(0.5)}",
    "NumPy's text as a key": "{np.str_('a'): [1, 2], 'b': 0.5}",
}

SECTION = "## Right answers in other forms"
HEAD = f"""{SECTION}
Made by `python tests/common/forms.py --write docs/attacks.md`. Each row is a submission with a right answer in this form
(`tests/common/forms.py`); `tests/grade/test_forms.py` runs it in a kernel's shell, where the check must say that it is right, and
grades it, for full points. A dash: no kernel runs it, or it starts processes.

"""  # noqa: E501


def section() -> str:
    """The table of the forms, as `docs/attacks.md` has it."""
    lines = ["| form of the answer | notebook | grader |", "|---|---|---|"]
    lines += [f"| {name} | {'–' if name in ONLY_GRADED else 'taken'} | taken |" for name in FORMS]
    lines += [
        "",
        (
            "| form of a result, where a mapping with a list and a number is asked "
            "for | notebook | grader |"
        ),
        "|---|---|---|",
    ]
    lines += [f"| {name} | taken | taken |" for name in RESULTS]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, required=True)
    path = parser.parse_args().write
    text = re.sub(
        rf"\n{SECTION}\n.*?(?=\n## |\Z)", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    before, mark, rest = text.partition("\n## ")
    path.write_text(f"{before.rstrip()}\n\n{section()}{mark}{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
