"""Compiling: once, by one process, whole or not at all; and what happens where there is no
compiler.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils.kernels import build

PRODUCT = """
import torch, warnings
warnings.simplefilter("always")
from course_utils import kernels
weight = kernels.from_codes(torch.arange(64).reshape(4, 16) % 16, torch.full((4, 2), 0.5), bits=4)
x = torch.arange(32.0).reshape(2, 16)
for _ in range(3):
    y = kernels.linear(x, weight)
    z = kernels.linear(x, weight, activations="int8")
error = (y - x @ kernels.reference.dequantize(weight).T).abs().max().item()
print(kernels.cpu.variants(), error < 1e-3, z.shape)
"""


def in_a_process(code, cache, **environment):
    settings = {
        **os.environ,
        "COURSE_KERNELS_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    settings.pop("COURSE_KERNELS", None) if "COURSE_KERNELS" not in environment else None
    return subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_KERNELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_compiler(folder: Path, body: str) -> str:
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


def test_without_a_compiler_everything_runs_and_it_is_said_once(tmp_path):
    """The PATH is empty, so no compiler is found."""
    done = in_a_process(PRODUCT, tmp_path / "cache", PATH=str(tmp_path), CXX="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "() True torch.Size([2, 4])"
    assert done.stderr.count("RuntimeWarning") == 1
    assert "no C++ compiler was found" in done.stderr and "install g++ or clang++" in done.stderr


def test_a_compiler_that_fails_is_quoted(tmp_path):
    compiler = fake_compiler(tmp_path, "echo 'fatal: the disk is full' >&2; exit 1")
    done = in_a_process(PRODUCT, tmp_path / "cache", CXX=compiler)
    assert done.returncode == 0 and done.stdout.startswith("() True")
    assert done.stderr.count("RuntimeWarning") == 1 and "fatal: the disk is full" in done.stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = in_a_process(PRODUCT, tmp_path / "file" / "cache")
    assert (
        done.returncode == 0
        and done.stdout.startswith("() True")
        and done.stderr.count("RuntimeWarning") == 1
    )


def test_the_kernels_can_be_switched_off_silently(tmp_path):
    done = in_a_process(PRODUCT, tmp_path / "cache", COURSE_KERNELS="torch")
    assert done.stdout.startswith("() True") and "Warning" not in done.stderr
    assert not (tmp_path / "cache").exists()


def test_two_processes_compile_once(tmp_path):
    """A compiler that writes down each call; both processes begin before either is done."""
    log = tmp_path / "calls"
    compiler = fake_compiler(
        tmp_path,
        f"echo called >> {log}; sleep 1; while [ $1 != -o ]; do shift; done; echo library > $2",
    )
    code = "from course_utils.kernels import build; print(build.build())"
    settings = {**os.environ, "COURSE_KERNELS_CACHE": str(tmp_path / "cache"), "CXX": compiler}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=settings, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    names = {process.communicate()[0].strip() for process in both}
    assert log.read_text() == "called\n" and len(names) == 1
    assert Path(names.pop()).read_text() == "library\n"


def test_a_compiled_library_needs_no_compiler(cache, monkeypatch, tmp_path):
    monkeypatch.setenv(
        "CXX", fake_compiler(tmp_path, "while [ $1 != -o ]; do shift; done; echo library > $2")
    )
    first = build.build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.build() == first


def test_an_interrupted_compiler_leaves_no_library_and_the_next_run_succeeds(
    cache, monkeypatch, tmp_path
):
    half = fake_compiler(tmp_path, "while [ $1 != -o ]; do shift; done; echo half > $2; kill -9 $$")
    monkeypatch.setenv("CXX", half)
    with pytest.raises(build.BuildError, match="could not compile"):
        build.build()
    assert [f.name for f in cache.iterdir()] == ["lock"]
    monkeypatch.setenv(
        "CXX", fake_compiler(tmp_path, "while [ $1 != -o ]; do shift; done; echo whole > $2")
    )
    assert build.build().read_text() == "whole\n"


def test_without_openmp_one_thread_works(cache, monkeypatch, tmp_path):
    body = (
        'case "$*" in *-fopenmp*) exit 1;; esac; while [ $1 != -o ]; '
        "do shift; done; echo plain > $2"
    )
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, body))
    assert build.build().read_text() == "plain\n"


def test_a_damaged_library_is_not_used_in_silence(cache, monkeypatch, tmp_path):
    monkeypatch.setenv(
        "CXX", fake_compiler(tmp_path, "while [ $1 != -o ]; do shift; done; echo library > $2")
    )
    build.library.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="not available"):
            assert build.library() is None
    finally:
        build.library.cache_clear()


def test_other_sources_have_another_name(cache, monkeypatch, tmp_path):
    monkeypatch.setenv(
        "CXX", fake_compiler(tmp_path, "while [ $1 != -o ]; do shift; done; echo library > $2")
    )
    first = build.build()
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-g"])
    assert build.build() != first
