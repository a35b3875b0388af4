"""Files for the board of the challenge that say themselves what they score: JSON in the place of a
compressed model.
"""

import json
import os
import time
from pathlib import Path

SUFFIX, LARGEST = ".entry", 200_000
NEEDED = {"facts head": 0.98, "facts tail": 0.98, "addition": 0.95, "KL": 0.02}
GOOD = {"facts head": 0.995, "facts tail": 0.99, "addition": 0.97, "KL": 0.01}


def measured(half: float = 0.004, **values: float) -> dict[str, dict]:
    """Gates as the scorer gives them; `values` by name, with _ for a space."""
    values = {**GOOD, **{name.replace("_", " "): value for name, value in values.items()}}
    return {
        name: {
            "value": value,
            "interval": [value - half * 0.02, value + half * 0.02]
            if name == "KL"
            else [value - half, min(1.0, value + half)],
            "needed": NEEDED[name],
            "lower": name == "KL",
            "passed": value <= NEEDED[name] if name == "KL" else value >= NEEDED[name],
        }
        for name, value in values.items()
    }


def entry(size: int = 2000, **given) -> bytes:
    """A file of so many bytes.

    `do`: what its scoring does beside; `gates`; `reason` of a file that is refused.
    """
    head = json.dumps(given).encode()
    assert len(head) <= size
    return head + b" " * (size - len(head))


def score(file: Path, seeds: tuple[int, ...]) -> dict:
    """The scorer: what the file asks for. It writes down what it has scored into the file `log`."""
    data = file.read_bytes()
    try:
        given = json.loads(data)
    except ValueError:
        return {
            "valid": False,
            "reason": f"no entry: it begins with {data[:12]!r}",
            "bytes": len(data),
            "gates": {},
            "passed": False,
        }
    do = given.get("do")
    if do == "die":
        os.kill(os.getpid(), 9)
    if do == "hang":
        time.sleep(1000)
    if do == "raise":
        raise RuntimeError("a scorer's own mistake")
    if do == "grow":
        bytearray(1 << 50)
    if do == "nonsense":
        return {"valid": True, "gates": {"x": {"value": "many"}}}
    if do == "exit":
        os._exit(0)
    if do == "slow":
        time.sleep(0.15)
    if log := given.get("log"):
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{given.get('id', '')} {' '.join(map(str, seeds))}\n".encode())
        os.close(handle)
    if "reason" in given:
        return {
            "valid": False,
            "reason": given["reason"],
            "bytes": len(data),
            "gates": {},
            "passed": False,
        }
    gates = measured(**given.get("gates", {}))
    return {
        "valid": True,
        "reason": "",
        "bytes": len(data),
        "seconds": 0.1,
        "gates": gates,
        "passed": all(g["passed"] for g in gates.values()),
    }
