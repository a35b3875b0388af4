"""Every test runs offline, in this process and in each process that it starts."""

import os
import sys
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[name] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
sys.path.insert(0, str(OFFLINE))
sys.modules.pop("sitecustomize", None)

import sitecustomize  # noqa: E402, F401
