"""Every test runs offline, in this process and in each process that it starts."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[name] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH")))
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
# kernels that start in a second
if hasattr(os, "pidfd_open") and "COURSE_TEST_COPIES" not in os.environ:
    place = tempfile.mkdtemp(prefix="course-kernels-")
    atexit.register(shutil.rmtree, place)
    os.environ["COURSE_TEST_COPIES"] = str(Path(place) / str(os.getpid()))
    quick = str(Path(__file__).parent / "quick")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(
        filter(None, (quick, os.environ.get("JUPYTER_PATH")))
    )
sys.path.insert(0, str(OFFLINE))
sys.modules.pop("sitecustomize", None)

import sitecustomize  # noqa: E402, F401
