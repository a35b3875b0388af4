"""Makes .interop/deploy: an environment over the one that runs this, with the runtimes that are not
part of the course.

It sees this environment's packages, so that neither PyTorch nor anything else that is there is
fetched again.
"""

import hashlib
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = (
    "torchao==0.18.0",
    "neural-compressor-pt==3.10",
    "accelerate==1.15.0",
    "openvino==2026.4.1",
    "nncf==3.4.0",
    "executorch==1.5.1",
    "coremltools==9.0",
)


def make(folder=ROOT / ".interop" / "deploy"):
    """The environment's Python; made once for a set of pins."""
    python, stamp = folder / "bin" / "python", folder / "installed"
    below = [p for p in sys.path if p.endswith("site-packages")]
    wanted = hashlib.sha256("\0".join((sys.version, *below, *PINS)).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder} (a minute)", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(site) / "course.pth").write_text("\n".join([str(ROOT), *below]) + "\n")
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PINS], check=True
        )
        stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    make()
