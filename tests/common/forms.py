"""Ways to hand in a right answer that Jupyter and Python users write. Each is accepted by the check and by the grader.

Each form is a list of cells; a name before `|` is where the cell goes: the answer cell of that exercise, `new` for a cell
of the learner's own just before the exercise's answer, `below` for one after it, `first` for the lab's first cell,
with `{}` for what is in it. The forms answer `hessian`; the other exercises of the small lab are answered as usual,
unless they are named.
"""

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
    "an async helper": {"hessian": "import asyncio\nasync def two():\n    return 2\nfactor = await two()\ndef hessian(x):\n    return factor / len(x) * (x.T @ x)"},
    "from __future__ that a later cell needs": {
        "hessian": f"from __future__ import annotations\n{GOOD}",
        "double": "def double(x: Unknown) -> Unknown:\n    return 2 * x",
    },
    "an answer in a new cell below": {"below": GOOD},
    "a helper in the answer cell": {"hessian": "def products(x):\n    return x.T @ x\n\ndef hessian(x):\n    return 2 / len(x) * products(x)"},
    "a helper in a cell of its own": {"new": "def products(x):\n    return x.T @ x", "hessian": "def hessian(x):\n    return 2 / len(x) * products(x)"},
    "imports and constants in a cell of its own": {
        "new": "import numpy as np\nfrom functools import partial\nFACTOR: float = 2.0\nTABLE = {'a': [1, -2.5], 'b': (torch.float64, None)}",
        "hessian": "def hessian(x):\n    assert np and partial and TABLE\n    return FACTOR / len(x) * (x.T @ x)",
    },
    "an import and a constant in the lab's first cell": {"first": "{}\nimport itertools\nTWO = 2", "hessian": "def hessian(x):\n    next(itertools.count())\n    return TWO / len(x) * (x.T @ x)"},
    "a helper that a later answer defines anew": {
        "hessian": "scale = 2\ndef helper(x):\n    return x.T @ x\ndef hessian(x):\n    return scale / len(x) * helper(x)",
        "double": "scale = 3\ndef helper(x):\n    return 2 * x\ndef double(x):\n    return helper(x)",
    },
    "a lambda": {"hessian": "hessian = lambda x: 2 / len(x) * (x.T @ x)"},
    "a partial": {"hessian": "from functools import partial\nhessian = partial(lambda c, x: c / len(x) * (x.T @ x), 2)"},
    "an object that is called": {"hessian": "class Hessian:\n    def __call__(self, x):\n        return 2 / len(x) * (x.T @ x)\nhessian = Hessian()"},
    "a method": {"hessian": "class Layer:\n    def hessian(self, x):\n        return 2 / len(x) * (x.T @ x)\nhessian = Layer().hessian"},
    "a module of torch": {"hessian": "class Hessian(torch.nn.Module):\n    def forward(self, x):\n        return 2 / len(x) * (x.T @ x)\nhessian = Hessian()"},
    "inference mode": {"hessian": "def hessian(x):\n    with torch.inference_mode():\n        return torch.einsum('ni,nj->ij', x, x) * 2 / x.size(0)"},
    "overloads": {"hessian": f"from typing import overload\n@overload\ndef hessian(x: int): ...\n@overload\ndef hessian(x: str): ...\n{GOOD}"},
    "tabs and line ends that are escaped": {"hessian": "def hessian(x):\n\treturn 2 / \\\n\t\tlen(x) * (x.T @ x)"},
    "a decorated function": {"hessian": f"import functools\n@functools.lru_cache(maxsize=None)\ndef two():\n    return 2\n@torch.no_grad()\ndef hessian(x):\n    {BODY.replace('2 /', 'two() /')}"},
    "torch.compile": {"hessian": f"@torch.compile(backend='eager')\ndef hessian(x):\n    {BODY}"},
    "torch.jit.script": {"hessian": "@torch.jit.script\ndef hessian(x):\n    return 2 / x.shape[0] * (x.t() @ x)"},
    "singledispatch": {"hessian": f"from functools import singledispatch\n@singledispatch\ndef hessian(x):\n    raise TypeError\n@hessian.register\ndef _(x: torch.Tensor):\n    {BODY}"},
    "a dataclass that is pickled": {
        "hessian": "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass Two:\n    value: int = 2\ndef hessian(x):\n    two = pickle.loads(pickle.dumps(Two()))\n    return two.value / len(x) * (x.T @ x)"
    },
    "an enum that is pickled": {
        "hessian": "import enum, pickle\nclass Factor(enum.Enum):\n    TWO = 2\ndef hessian(x):\n    return pickle.loads(pickle.dumps(Factor.TWO)).value / len(x) * (x.T @ x)"
    },
    "a data loader with workers": {
        "hessian": "from torch.utils.data import DataLoader, TensorDataset\ndef hessian(x):\n    parts = [p.T @ p for (p,) in DataLoader(TensorDataset(x), batch_size=3, num_workers=2)]\n    return 2 / len(x) * sum(parts)"
    },
    "threads": {"hessian": f"from concurrent.futures import ThreadPoolExecutor\ndef work(x):\n    {BODY}\ndef hessian(x):\n    with ThreadPoolExecutor(2) as pool:\n        return pool.submit(work, x).result()"},
    "numpy inside": {"hessian": "import numpy as np\ndef hessian(x):\n    a = x.numpy()\n    return torch.from_numpy(2 / np.float64(len(a)) * (a.T @ a))"},
    "single precision": {"hessian": "def hessian(x):\n    x = x.float()\n    return 2 * x.T @ x / x.shape[0]"},
    "type hints and a docstring": {"hessian": f'def hessian(x: "torch.Tensor") -> torch.Tensor:\n    """H."""\n    {BODY}'},
    "experiments below the answer": {"hessian": f"{GOOD}\nprint(hessian(torch.eye(2)))\ncheck('gptq.hessian', hessian)"},
    "an argument by position only": {"hessian": f"def hessian(x, /):\n    {BODY}"},
    "any arguments": {"hessian": f"def hessian(*given):\n    (x,) = given\n    {BODY}"},
    "what a shell command says": {"hessian": f"files = !true\nfound = len(files)\n{GOOD}"},
    "a pool of another context": {"hessian": "import multiprocessing\ndef one(row):\n    return row[:, None] * row\ndef hessian(x):\n    with multiprocessing.get_context('spawn').Pool(2) as pool:\n        return 2 / len(x) * sum(pool.map(one, x))"},
    "joblib": {"hessian": "from joblib import Parallel, delayed\ndef one(row):\n    return row[:, None] * row\ndef hessian(x):\n    return 2 / len(x) * sum(Parallel(n_jobs=2)(delayed(one)(row) for row in x))"},
    "match": {"hessian": "def hessian(x):\n    match x.dim():\n        case 2:\n            return 2 / len(x) * (x.T @ x)"},
}  # fmt: skip

ONLY_GRADED = {"a byte order mark", "a pool of another context", "joblib"}  # no kernel runs the first, the others start processes

RESULTS: dict[
    str, str
] = {  # what a function may return where a mapping, a list and numbers are asked for: {"a": [1, 2], "b": 0.5}
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
    "NumPy's text as a key": "{np.str_('a'): [1, 2], 'b': 0.5}",
}
