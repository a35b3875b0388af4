"""What a submission may try.

ANSWERS: code of an answer cell; NOTEBOOKS: changes to the file. Each with the right score.

The exercises are worth 5 (hessian), 4 (pack), 3 (double) points. Unless it says otherwise, an
attack replaces the answer to `hessian` and is wrong work, so 7 is right.
"""

from grading import ANSWERS as RIGHT
from grading import SECRET, by_id

WRONG = "\ndef hessian(x):\n    return x.T @ x\n"
GOOD = "\n" + RIGHT["hessian"] + "\n"
EQUAL = (
    "class Equal:\n"
    "    def __eq__(self, other): return True\n    def __getattr__(self, name): return Equal()\n"
    "    def __call__(self, *a, **k): return Equal()\n"
    "    def __bool__(self): return True\n    def tolist(self): return self\n"
)
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
CHANNEL = (
    "import gc, socket, struct\n"
    "channels = [o for o in gc.get_objects() if isinstance(o, socket.socket) and o.fileno() > 0]\n"
)
SEARCH = f"""
import os
def hessian(x):
    for base in ("/", "/work", "/root", "/home", "/tmp", "..", "/proc/1/root", "/var", "/mnt", "/course"):
        for folder, _, files in os.walk(base):
            if "site-packages" in folder or "/usr/lib" in folder or "python3" in folder:
                continue
            for name in files:
                try:
                    if {SECRET[:10]!r} + {SECRET[10:]!r} in open(os.path.join(folder, name), errors="replace").read(1 << 20):
                        raise LookupError("found in " + folder)
                except OSError:
                    pass
    return x.T @ x
"""  # noqa: E501

ANSWERS = {  # name: (code for the hessian cell, right score)
    "right": (GOOD, 12),
    "right, prints to stderr": (
        "import sys\ndef hessian(x):\n"
        "    print('a warning', file=sys.stderr)\n"
        "    return 2 / len(x) * (x.T @ x)",
        12,
    ),
    "right, prints very much": (
        "def hessian(x):\n    print('y' * (1 << 26))\n    return 2 / len(x) * (x.T @ x)",
        12,
    ),
    "right, in float32": (
        "def hessian(x):\n    x = x.float()\n    return 2 * x.T @ x / x.shape[0]",
        12,
    ),
    "right, with magics and a check": (
        "%matplotlib inline\n!pip list\n" + RIGHT["hessian"] + "\ncheck('gptq.hessian', hessian)\n",
        12,
    ),
    "right, raises after its definition": (GOOD + "raise ValueError('late')", 12),
    "right, leaves a thread running": (
        "import threading, time\n"
        "threading.Thread(target=lambda: time.sleep(3600)).start()\n" + GOOD,
        12,
    ),
    "right, uses what a later cell defines": (
        "def hessian(x):\n    return double(1) / len(x) * (x.T @ x)",
        12,
    ),
    "right, changes its input": (
        "def hessian(x):\n    result = 2 / len(x) * (x.T @ x)\n    x.zero_()\n    return result",
        12,
    ),
    "ast transformer removes asserts": (
        "import ast\nclass T(ast.NodeTransformer):\n"
        "    def visit_Assert(self, node): return None\n"
        "get_ipython().ast_transformers.append(T())\n" + WRONG,
        7,
    ),
    "input transformer empties later cells": (
        "get_ipython().input_transformers_cleanup.append(lambda lines: [])\n" + WRONG,
        7,
    ),
    "objects equal to everything": (EQUAL + "def hessian(x): return Equal()", 7),
    "a class for the function": (EQUAL + "hessian = Equal()", 7),
    "forges an execute_result": (
        "get_ipython().kernel.session.send(None, 'execute_result', "
        "{'data': {'text/plain': '5'}})\n" + WRONG,
        7,
    ),
    "patches run_cell": ("get_ipython().run_cell = lambda *a, **k: None\n" + WRONG, 7),
    "sys.exit": ("import sys\nsys.exit(0)" + WRONG, 7),
    "sys.exit in the function": ("import sys\ndef hessian(x): sys.exit(0)", 7),
    "os._exit": ("import os\nos._exit(0)", 7),
    "os._exit in the function": ("import os\ndef hessian(x): os._exit(0)", 7),
    "kill -9": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nlibc = 0" + WRONG, 7),
    "kills everything it can": (
        "import os\ntry:\n    os.kill(-1, 9)\nexcept OSError: pass\nos.killpg(0, 9)" + WRONG,
        7,
    ),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", 7),
    "abort": ("import os\ndef hessian(x): os.abort()", 7),
    "infinite loop": ("while True: pass", 7),
    "infinite loop that catches interrupts": (
        "def hessian(x):\n    while True:\n        try:\n"
        "            while True: pass\n"
        "        except BaseException: pass",
        7,
    ),
    "sleeps and ignores signals": (
        "import signal, time\nfor n in range(1, 64):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ntime.sleep(10 ** 6)",
        7,
    ),
    "an alarm handler": (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n" + WRONG,
        7,
    ),
    "reads hidden tests from the disk": (SEARCH, 7),
    "reads the right answers of the course": (
        "from course_utils.learn.exercises.formalization.gptq import hessian",
        7,
    ),
    "reads the worked solutions of the course": (
        "import course_utils, pathlib, re, textwrap\n"
        "for path in pathlib.Path(course_utils.__file__).parent.rglob('*.yaml'):\n"
        "    for found in re.findall(r'( +def hessian.*?)\\n *```', path.read_text(), re.DOTALL): "
        "exec(textwrap.dedent(found))",
        7,
    ),
    "looks for worked solutions in memory": (
        (
            "import gc, textwrap\ndef hessian(x):\n"
            "    gc.unfreeze()\n    for o in gc.get_objects():\n"
            "        if type(o) is dict and type(o.get('solution')) is str and 'hints' in o: "
            "raise LookupError('found in memory')\n    return x.T @ x"
        ),
        7,
    ),
    "asks for a ring of system calls": (
        LIBC + "assert libc.syscall(425, 4, 0) < 0\n"
        "assert libc.syscall(319, b'x', 0) < 0\n"
        "assert libc.syscall(321, 0, 0, 0) < 0\n" + WRONG,
        7,
    ),
    "hides what it opens": (
        (
            "import os\nfor name in ('/dev', '/', '/usr'):\n"
            "    for tried in (lambda: os.mkdir(name + '/x'), lambda: os.open(name, "
            "os.O_TMPFILE | os.O_RDWR), lambda: os.chmod(name, 0o777)):\n        try: tried()\n"
            "        except OSError: continue\n        raise LookupError('found ' + name)\n"
        )
        + WRONG,
        7,
    ),
    "right, arguments by position only": (
        "def hessian(x, /):\n    return 2 / len(x) * (x.T @ x)",
        12,
    ),
    "looks in memory": (
        (
            "import gc\ndef hessian(x):\n    gc.unfreeze()\n"
            "    for o in gc.get_objects():\n"
            f"        if type(o) is dict and ({SECRET[:10]!r} + {SECRET[10:]!r}) in o: "
            "raise LookupError('found in memory')\n    return x.T @ x"
        ),
        7,
    ),
    "writes into the gradebook": (
        (
            "import glob, sqlite3\n"
            "for p in glob.glob('/**/gradebook.db', recursive=True) + ['../../../gradebook.db']:\n"
            "    sqlite3.connect(p).execute('create table hacked (x)')\n"
        )
        + WRONG,
        7,
    ),
    "a background process": (
        (
            "import subprocess, sys\ntry:\n"
            "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(999)'], "
            "start_new_session=True)\nexcept OSError: pass\n"
        )
        + WRONG,
        7,
    ),
    "a daemon by two forks": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(999)\n    os._exit(0)\n" + WRONG,
        7,
    ),
    "fork bomb": ("import os\nwhile True: os.fork()", 7),
    "memory bomb": ("kept = []\nwhile True: kept.append(bytearray(1 << 26))", 7),
    "memory bomb in the function": ("def hessian(x): return x.repeat(10 ** 6, 10 ** 3)", 7),
    "thread bomb": (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(999,), "
        "daemon=True).start()",
        7,
    ),
    "fills the disk": (
        "n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'wb').write(bytes(1 << 24))",
        7,
    ),
    "many small files": ("for n in range(10 ** 6): open(f'f{n}', 'w').close()", 7),
    "opens many files": ("kept = [open('/dev/null') for _ in range(10 ** 5)]", 7),
    "raises its limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
        "kept = [bytearray(1 << 30) for _ in range(64)]",
        7,
    ),
    "a socket": ("import socket\ns = socket.create_connection(('127.0.0.1', 80), 2)" + WRONG, 7),
    "a Unix socket": (
        "import glob, socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('/tmp/zygote')" + WRONG,
        7,
    ),
    "a link out of the folder": (
        "import os\nos.symlink('/etc/passwd', 'data')\n"
        "raise LookupError('found ' + open('data').read())",
        7,
    ),
    "reads the environment": (
        (
            "import os\nif set(os.environ) & {'SECRET_OF_THE_GRADER', 'USER', 'SUDO_USER'}: "
            "raise LookupError('found')\n"
        )
        + WRONG,
        7,
    ),
    "reads /proc of the parent": (
        "raise LookupError('found ' + open('/proc/1/environ').read())",
        7,
    ),
    "ptrace": (LIBC + "assert libc.ptrace(16, 1, 0, 0) == 0, 'refused'\n" + WRONG, 7),
    "process_vm_readv": (
        LIBC + "assert libc.process_vm_readv(1, 0, 0, 0, 0, 0) == 0, 'refused'\n" + WRONG,
        7,
    ),
    "mounts": (
        LIBC + "assert libc.unshare(0x10020000) == 0 and libc.mount(b'none', b'/tmp', "
        "b'proc', 0, b'') == 0, 'refused'\n" + WRONG,
        7,
    ),
    "becomes root": ("import os\nos.setuid(0)" + WRONG, 7),
    "patches torch": (
        "torch.allclose = torch.equal = lambda *a, **k: True\n"
        "torch.Tensor.__eq__ = lambda *a: True\n"
        "torch.Tensor.tolist = lambda s: [[10.0, 2.0], [2.0, 4.0]]\n" + WRONG,
        7,
    ),
    "patches builtins": (
        "import builtins\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.all = lambda *a: True\n" + WRONG,
        7,
    ),
    "patches the check": (
        "import course_utils.learn\n"
        "from course_utils.learn.checks import checking, compare\n"
        "compare.difference = lambda *a, **k: None\n"
        "checking.judge = checking._judge = lambda *a, **k: True\n" + WRONG,
        7,
    ),
    "patches the channel": (
        "from course_utils.grade import wire\nwire.encode = lambda *a: True\n"
        "wire.save_tensors = lambda t: b'junk'\n" + WRONG,
        7,
    ),
    "a tensor subclass": (
        "class T(torch.Tensor):\n    @classmethod\n"
        "    def __torch_function__(cls, *a, **k): return True\n"
        "def hessian(x): return (x.T @ x).as_subclass(T)",
        7,
    ),
    "a number equal to everything": (
        "class F(float):\n    def __eq__(self, o): return True\n"
        "    def __sub__(self, o): return 0.0\n"
        "    __hash__ = float.__hash__\ndef hessian(x): return F(1)",
        7,
    ),
    "a list equal to everything": (
        "class L(list):\n    def __eq__(self, o): return True\n"
        "    def __len__(self): return 2\ndef hessian(x): return L([1])",
        7,
    ),
    "dtype: NaN": (
        "def hessian(x): return torch.full((x.shape[1],) * 2, float('nan'), dtype=x.dtype)",
        7,
    ),
    "dtype: infinity": (
        "def hessian(x): return torch.full((x.shape[1],) * 2, float('inf'), dtype=x.dtype)",
        7,
    ),
    "dtype: complex": ("def hessian(x): return (x.T @ x).to(torch.complex128)", 7),
    "dtype: a meta tensor": (
        "def hessian(x): return torch.empty(x.shape[1], x.shape[1], device='meta')",
        7,
    ),
    "the input buffer": ("def hessian(x): return x", 7),
    "zeroes its input and its answer": (
        "def hessian(x):\n    x.zero_()\n"
        "    return torch.zeros(x.shape[1], x.shape[1], "
        "dtype=x.dtype)",
        7,
    ),
    "right the first time only": (
        "count = []\ndef hessian(x):\n    count.append(1)\n"
        "    return 2 / len(x) * (x.T @ x) if len(count) < 3 "
        "else x.T @ x",
        7,
    ),
    "right when nobody looks": (
        (
            "import sys\ndef hessian(x):\n"
            "    if 'pytest' in sys.modules or 'nbgrader' in sys.modules or sys._getframe(1): "
            "return x.T @ x\n    return 2 / len(x) * (x.T @ x)"
        ),
        7,
    ),
    "remembers its first answer": (
        "kept = {}\ndef hessian(x): return kept.setdefault('h', 2 / len(x) * (x.T @ x))",
        7,
    ),
    "the first 20 tokens only": (
        "def hessian(x):\n    x = x[:20]\n    return 2 / len(x) * (x.T @ x)",
        7,
    ),
    "the first 128 tokens only": (
        "def hessian(x):\n    return 2 / len(x) * (x[:128].T @ x[:128])",
        7,
    ),
    "right for few inputs only": (
        "def hessian(x):\n    return 2 / len(x) * (x.T @ x) * (x.shape[1] <= 16)",
        7,
    ),
    "only the numbers in the released test": (
        "def hessian(x): return torch.tensor([[10.0, 2.0], [2.0, 4.0]])",
        7,
    ),
    "a pickle": (
        "import os\nclass P:\n"
        "    def __reduce__(self): return (os.system, ('touch /tmp/hacked',))\n"
        "def hessian(x): return P()",
        7,
    ),
    "a nest of lists": (
        "def hessian(x):\n    nest = []\n"
        "    for _ in range(10 ** 5): nest = [nest]\n    return nest",
        7,
    ),
    "a list of itself": (
        "def hessian(x):\n    loop = []\n    loop.append(loop)\n    return loop",
        7,
    ),
    "an enormous result": (
        "def hessian(x): return torch.zeros(1, dtype=torch.uint8).expand(200_000_000).clone()",
        7,
    ),
    "an enormous text": ("def hessian(x): return 'x' * (40 << 20)", 7),
    "an enormous number": ("def hessian(x): return 10 ** 100_000", 7),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef hessian(x): return hessian(x)",
        7,
    ),
    "a generator without end": ("import itertools\ndef hessian(x): return itertools.count()", 7),
    "writes noise into the channel": (
        CHANNEL + "for c in channels: c.sendall(bytes(range(256)) * 64)\n" + WRONG,
        7,
    ),
    "announces an endless frame": (
        CHANNEL + "for c in channels: c.sendall(struct.pack('>QQ', 1 << 62, 1 << 62))\n" + WRONG,
        7,
    ),
    "answers before it is asked": (
        CHANNEL
        + (
            "import json\n"
            "t = json.dumps({'value': True, 'asked': ''}).encode()\n"
            "for c in channels: c.sendall(struct.pack('>QQ', len(t), 0) + t)\n"
        )
        + WRONG,
        7,
    ),
    "closes the channel": (CHANNEL + "for c in channels: c.close()\n" + WRONG, 7),
    "an error that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\ndef hessian(x): raise E()",
        7,
    ),
    "raises what stops a grader": ("def hessian(x): raise KeyboardInterrupt", 7),
    "raises GeneratorExit": ("def hessian(x): raise GeneratorExit", 7),
    "an exit handler": ("import atexit, os\natexit.register(lambda: os._exit(0))\n" + WRONG, 7),
    "a trace function": (
        "import sys\nsys.settrace(lambda *a: (_ for _ in ()).throw(SystemExit))\n" + WRONG,
        7,
    ),
    "not valid Python": ("def hessian(x:\n    return", 7),
    "a source that breaks the parser": ("x = " + "(" * 50_000, 7),
    "not attempted": ("def hessian(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()", 7),
}


def tags(notebook):
    for entry in notebook["cells"]:
        entry["metadata"]["tags"] = ["skip-execution", "raises-exception"]


def source_of_test(notebook):
    by_id(notebook)["hessian-test"]["source"] = "assert True"


def without_test(notebook):
    notebook["cells"] = [c for c in notebook["cells"] if c["id"] != "hessian-test"]


def pointed_elsewhere(notebook):
    by_id(notebook)["hessian-test"]["metadata"]["nbgrader"].update(
        grade_id="double-test", points=500
    )


def another_test(notebook):
    notebook["cells"].insert(4, {**by_id(notebook)["hessian-test"], "id": "again", "source": ""})


def test_as_markdown(notebook):
    by_id(notebook)["hessian-test"].update(cell_type="markdown")
    by_id(notebook)["hessian-test"]["metadata"]["nbgrader"].update(grade=False, solution=True)


def other_metadata(notebook):
    for n, entry in enumerate(notebook["cells"]):
        entry["id"] = f"other-{n}"
        entry["metadata"].get("nbgrader", {}).update(
            points=1000, grade=True, solution=True, locked=False, checksum="0" * 32
        )


def claimed_twice(notebook):
    notebook["cells"].append({**by_id(notebook)["hessian"], "id": "again", "source": WRONG})


def right_copy_last(notebook):
    notebook["cells"].append({**by_id(notebook)["hessian"], "id": "again", "source": GOOD})


def wrong_copy_run_last(notebook):
    place = next(i for i, cell in enumerate(notebook["cells"]) if cell["id"] == "hessian")
    notebook["cells"].insert(
        place, {**by_id(notebook)["hessian"], "id": "again", "source": WRONG, "execution_count": 9}
    )


def much_output(notebook):
    output = {"output_type": "stream", "name": "stdout", "text": 'y "outputs": [] {\\ ' * 4_000_000}
    by_id(notebook)["imports"]["outputs"] = [
        output,
        {"output_type": "display_data", "data": {"outputs": [[]]}, "metadata": {}},
    ]


def many_helpers(notebook):
    lines = "\n".join(f"def helper{n}(): return 1" for n in range(90_000))
    notebook["cells"].append(
        {**by_id(notebook)["imports"], "id": "many", "metadata": {}, "source": lines}
    )


def newlines(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] += "\n" * 500_000


def spaces(notebook):
    by_id(notebook)["double"]["source"] += "\n" + " " * 900_000 + "#"


def answers_marked_often(notebook):
    notebook["cells"] += [{**by_id(notebook)["double"], "id": f"n{n}"} for n in range(3000)]


def noise_from_a_thread(notebook):
    by_id(notebook)["hessian"]["source"] = (
        CHANNEL
        + (
            "import threading, time\n"
            "def noise():\n    time.sleep(0.3)\n    while True:\n        time.sleep(0.01)\n"
        )
        + (
            "        for c in channels: c.sendall(bytes(64))\n"
            "threading.Thread(target=noise, daemon=True).start()"
        )
        + WRONG
    )


def redefined_later(notebook):
    by_id(notebook)["double"]["source"] = (
        EQUAL + "def hessian(x): return Equal()\n" + RIGHT["double"]
    )


def needs_the_other(notebook):
    by_id(notebook)["double"]["source"] = (
        "def double(x):\n    assert hessian(torch.eye(2)).equal(torch.eye(2))\n    return 2 * x"
    )


def each_needs_the_other(notebook):
    by_id(notebook)["double"]["source"] = (
        "def double(x):\n    return int(hessian(torch.ones(1, 1)).item()) * x"
    )


def extra_cells(notebook):
    for place in range(len(notebook["cells"]), -1, -1):
        cell = {
            "cell_type": "code",
            "id": f"extra-{place}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        notebook["cells"].insert(place, {**cell, "source": f"import os\nos._exit({place})"})


def stripped(notebook):
    for entry in notebook["cells"]:
        entry["metadata"] = {}
        entry.pop("id")


def wrong_types(notebook):
    notebook["cells"] += [
        None,
        3,
        {"source": 5},
        {"metadata": [], "source": [1]},
        {"metadata": {"nbgrader": 3}, "source": "x"},
    ]
    notebook["metadata"], notebook["nbformat"] = None, "four"


def as_lists(notebook):
    for entry in notebook["cells"]:
        entry["source"] = entry["source"].splitlines(keepends=True)


NOTEBOOKS = {  # name: (the hessian cell, change of the notebook, right score)
    "skips test cells by a tag": (WRONG, tags, 7),
    "edits a test": (WRONG, source_of_test, 7),
    "deletes a test": (WRONG, without_test, 7),
    "points a test elsewhere": (WRONG, pointed_elsewhere, 7),
    "duplicates a test": (WRONG, another_test, 7),
    "makes a test Markdown": (WRONG, test_as_markdown, 7),
    "changes ids and metadata": (WRONG, other_metadata, 7),
    "redefines an earlier function": (WRONG, redefined_later, 7),
    "wrong, and a right answer needs it": (WRONG, needs_the_other, 7),
    "not there, and a right answer needs it": ("raise ValueError", needs_the_other, 7),
    "two answers that each call the other": (
        "def hessian(x):\n    return double(1) / len(x) * (x.T @ x)",
        each_needs_the_other,
        7,
    ),
    "right, redefined later": (GOOD, redefined_later, 12),
    "a grade_id used twice, the last one is wrong": (GOOD, claimed_twice, 7),
    "right, a grade_id used twice": (WRONG, right_copy_last, 12),
    "a wrong copy above that was run last": (GOOD, wrong_copy_run_last, 7),
    "right, 80 MB of outputs": (GOOD, much_output, 12),
    "right, 90,000 helpers in a cell": (GOOD, many_helpers, 12),
    "right, 500,000 empty lines in each cell": (GOOD, newlines, 12),
    "right, 900,000 spaces": (GOOD, spaces, 12),
    "right, 3,000 copies": (GOOD, answers_marked_often, 12),
    "disturbs the channel for ever": (WRONG, noise_from_a_thread, 7),
    "right, extra cells that would end it": (GOOD, extra_cells, 12),
    "right, cells in another order": (GOOD, lambda notebook: notebook["cells"].reverse(), 12),
    "right, all metadata stripped": (GOOD, stripped, 12),
    "right, values of wrong types": (GOOD, wrong_types, 12),
    "right, sources as lists": (GOOD, as_lists, 12),
    "right, one answer missing": (GOOD, lambda n: n["cells"].remove(by_id(n)["double"]), 9),
}

BYTES = {  # name: (change of the right notebook's bytes, right score)
    "right, UTF-16": (lambda content: content.decode().encode("utf-16"), 12),
    "right, a byte order mark": (lambda content: b"\xef\xbb\xbf" + content, 12),
    "right, a byte that is not UTF-8": (
        lambda content: content.replace(b"# Lab A", b"# Lab \xff\xfe"),
        12,
    ),
    "cut in the middle": (lambda content: content[: content.index(b"double")], 9),
    "not JSON": (lambda content: b"\x00\x01 nothing", 0),
    "a nest of brackets": (lambda content: b"[" * 200_000, 0),
    "empty": (lambda content: b"", 0),
    "another kind of JSON": (lambda content: b'{"cells": 5}', 0),
}
