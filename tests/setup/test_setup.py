"""The set-up files agree with each other, and the second installation does nothing."""

import ast
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_utils import bootstrap, cli

ROOT = Path(__file__).resolve().parents[2]


def names(text: str) -> set[str]:
    return {n.lower() for n in re.findall(r"^\s*\"?([A-Za-z][\w.-]*)\s*[><=]=", text, re.MULTILINE)}


def test_bootstrap_needs_only_the_standard_library():
    tree = ast.parse((ROOT / "course_utils/bootstrap.py").read_text(encoding="utf-8"))
    modules = {
        alias.name.split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.Import)
        for alias in n.names
    }
    modules |= {
        n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module
    }
    assert modules <= set(sys.stdlib_module_names)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, course_utils.bootstrap; print(sorted({'torch', 'transformers', "
        "'matplotlib'} & set(sys.modules)))"
    )
    assert (
        subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"
    )


def test_constraints_pin_every_package_for_every_python_and_system():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and pin.url is None for pin in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        name: wishes for name, wishes in project["optional-dependencies"].items() if name != "gptq"
    }
    asked = [
        Requirement(wish)
        for wishes in (project["dependencies"], *extras.values())
        for wish in wishes
    ]
    for version, system in [
        (v, s) for v in ("3.10", "3.11", "3.12", "3.13") for s in ("linux", "darwin", "win32")
    ]:
        place = {
            "python_version": version,
            "python_full_version": f"{version}.1",
            "sys_platform": system,
        }
        chosen = {
            canonicalize_name(p.name): p
            for p in pins
            if p.marker is None or p.marker.evaluate(place)
        }
        for wish in asked:
            if wish.marker is None or wish.marker.evaluate(place):
                assert str(chosen[canonicalize_name(wish.name)].specifier)[2:] in wish.specifier, (
                    wish,
                    place,
                )


def test_extras_and_core_are_declared():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = {
        "torch",
        "transformers",
        "jupyterlab",
        "matplotlib",
        "ipywidgets",
        "bitsandbytes",
        "nbval",
        "papermill",
    }
    assert declared <= names(text)
    for extra in ("gpu", "gptq", "deploy", "eval", "grade", "cluster", "dev", "peers"):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE)
    assert 'requires-python = ">=3.10,<3.14"' in text


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small copy of what the bootstrap reads, with its commands recorded instead of run."""
    for file in ("pyproject.toml", "constraints.txt"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    calls: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / "course-installed")
    monkeypatch.setattr(
        bootstrap.venv, "create", lambda folder, **_: Path(folder).mkdir(exist_ok=True)
    )
    monkeypatch.setattr(
        bootstrap.subprocess, "call", lambda command, **_: calls.append(command) or 0
    )
    monkeypatch.setattr(bootstrap, "pip_settings", dict)
    monkeypatch.setattr(bootstrap.shutil, "which", {"uv": "/bin/uv"}.get)
    monkeypatch.setattr(bootstrap.platform, "system", lambda: "Linux")
    for name in bootstrap.SETTINGS.values():
        monkeypatch.delenv(name, raising=False)
    return tmp_path, calls


def test_second_install_does_nothing_until_the_requirements_change(project):
    folder, calls = project
    bootstrap.install()
    first = len(calls)
    bootstrap.install()
    assert first > 0 and len(calls) == first
    with (folder / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    bootstrap.install()
    assert len(calls) > first


def test_failed_install_is_tried_again(project, monkeypatch):
    folder, _calls = project
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda *_, **__: 1)
    with pytest.raises(SystemExit, match="failed"):
        bootstrap.install()
    assert not (folder / ".venv" / "course-installed").exists()


def test_learners_get_the_small_set_and_the_whole_set_serves_them_too(project):
    folder, calls = project
    bootstrap.install("")
    assert calls[-1][-2:] == ["-e", str(folder)]
    bootstrap.install()
    assert calls[-1][-1] == f"{folder}[{bootstrap.EXTRAS}]"
    count = len(calls)
    bootstrap.install("")
    assert len(calls) == count


def test_learners_are_left_without_libraries_tests_and_a_uv_of_their_own(project):
    folder, calls = project
    packages = folder / ".venv" / "lib" / "python3.11" / "site-packages"
    kept = ["torch/bin/torch_shm_manager", "torch/testing/a.py", "numpy/testing/a.py", "my/tests/a"]
    gone = ["torch/bin/test_api", "torch/bin/TCPStoreTest", "torch/test/a", "scipy/fft/tests/a.py"]
    kept, gone = ([packages / name for name in names] for names in (kept, gone))
    for file in (*kept, *gone, uv := bootstrap.executable("uv")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    bootstrap.install()
    assert uv.exists() and not any("uninstall" in call for call in calls)
    bootstrap.STAMP.unlink()
    bootstrap.install("")
    assert calls[-1][1:] == ["-m", "pip", "uninstall", "-y", "-q", "uv"]
    assert all(file.exists() for file in kept) and not any(file.exists() for file in gone)


def test_jupyterlab_starts_without_parts_that_are_there():
    """What is left out by a name that no longer exists would save nothing, and nobody would see."""
    left_out = ast.literal_eval(re.search(r"fromkeys\((\[.*?\])", bootstrap.LAB)[1])
    found = ("rfc3987-syntax", "isoduration", "httpx")
    files = {str(file) for name in found for file in importlib.metadata.files(name)}
    for name in left_out:
        path = name.replace(".", "/")
        assert {f"{path}.py", f"{path}/__init__.py"} & files, name
    commands = Path(importlib.util.find_spec("jupyterlab").origin).with_name("commands.py")
    assert "= _yarn_config(" in commands.read_text(encoding="utf-8")
    started = [sys.executable, "-c", bootstrap.LAB, "--version"]
    said = subprocess.run(started, capture_output=True, text=True, check=True).stdout
    assert said.strip() == importlib.metadata.version("jupyterlab")


def test_the_build_of_torch_is_the_machines_unless_chosen(project, monkeypatch, capsys):
    _, calls = project
    bootstrap.install("")
    assert (
        calls[0][-3:] == ["--torch-backend", "cpu", "torch"]
        and "--torch cuda" in capsys.readouterr().out
    )
    count = len(calls)
    assert bootstrap.main(["lab", "--torch", "cuda"]) == 0
    again = calls[count]
    assert (
        "--torch-backend" not in again and "--reinstall-package" in again and again[-1] == "torch"
    )
    count = len(calls)
    assert bootstrap.main(["lab"]) == 0 and len(calls) == count + 1  # what was chosen stays
    with pytest.raises(SystemExit):
        bootstrap.main(["lab", "--torch", "rocm"])
    for driver, own, wanted in (
        (True, {}, []),
        (False, {"UV_FIND_LINKS": "wheels"}, []),
        (False, {}, ["--torch-backend", "cpu"]),
    ):
        monkeypatch.setattr(
            bootstrap.shutil, "which", lambda name, driver=driver: "/bin/it" if driver else None
        )
        assert bootstrap.torch_build(bootstrap.build_for(""), own) == wanted


def test_without_uv_pip_installs_the_same_versions(project, monkeypatch):
    folder, calls = project
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    bootstrap.install("")
    pip = [call for call in calls if call[1:4] == ["-m", "pip", "install"]]
    # uv was asked for, and did not come
    assert calls == pip and pip[0][-1] == "uv" and pip[-1][-1] == str(folder)
    assert all(str(folder / "constraints.txt") in call for call in pip) and not any(
        "--torch-backend" in call for call in pip
    )


def test_what_pip_was_told_is_told_to_uv(monkeypatch):
    said = (
        ":env:.find-links='/some/wheels'\n"
        "global.index-url='https://example.org/simple'\nglobal.timeout='9'\n"
    )
    monkeypatch.setattr(
        bootstrap.subprocess, "run", lambda *_, **__: types.SimpleNamespace(stdout=said)
    )
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    # one's own word for uv stays
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://example.org/mine")
    assert bootstrap.pip_settings() == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/some/wheels",
    }


def test_a_full_disk_is_named_before_anything_is_fetched(project, monkeypatch):
    _, calls = project
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10**9))
    with pytest.raises(SystemExit, match="1.0 GB are free and 2 GB are needed"):
        bootstrap.install("")
    assert calls == []


def test_unsupported_python_is_named(project, monkeypatch):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 0))
    with pytest.raises(SystemExit, match=r"3\.10 to 3\.13"):
        bootstrap.install()


def test_the_real_model_is_an_extra_installed_once_and_alone(project):
    _, calls = project
    for action in ("install", "real", "real"):
        assert bootstrap.main([action]) == 0
    whole = [" ".join(call) for call in calls]
    assert sum("[real]" in call for call in whole) == 1 and [
        call for call in calls if bootstrap.MODEL in call
    ] == [calls[-1]]
    assert "--no-deps" in calls[-1] and "real" not in bootstrap.EXTRAS.split(",")


def test_the_site_is_built_with_its_own_extra(project):
    _, calls = project
    for action in ("site", "site"):
        assert bootstrap.main([action]) == 0
    assert (
        sum("[site]" in " ".join(call) for call in calls) == 1 and "docs/site/build.py" in calls[-1]
    )
    assert "site" not in bootstrap.EXTRAS.split(",")


@pytest.mark.parametrize(("user", "told"), [(0, True), (1000, False)])
def test_lab_opens_the_start_page(project, monkeypatch, user, told):
    _, calls = project
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: user, raising=False)
    assert bootstrap.main(["lab"]) == 0
    assert bootstrap.LAB in calls[-1]
    assert "notebooks/start.ipynb" in calls[-1] and ("--allow-root" in calls[-1]) == told


def test_doctor_loads_the_bundled_model(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "loads" in said and "blocked" not in said and "torch" in said


def test_doctor_names_the_remedy(capsys, monkeypatch):
    monkeypatch.setattr(cli, "installed", lambda name: None)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "pip install -c constraints.txt -e ." in said and "Lessons are blocked" in said


def test_the_tests_cannot_leave_this_machine():
    import socket

    with socket.socket() as s, pytest.raises(ConnectionRefusedError, match="offline"):
        s.connect(("192.0.2.1", 80))
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the tests run offline" in child.stderr


def test_workflows_and_the_container_name_what_exists():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert any(step.endswith(".ci/run") for step in steps)
    named = re.findall(r"(?:notebooks|solutions|tests)/[\w./-]+", " ".join(steps))
    assert len(named) >= 4 and all((ROOT / path).exists() for path in named)
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).is_file()
    assert container["hostRequirements"]["cpus"] == 2
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation) and citation[
        "license"
    ] == "Apache-2.0"


def test_the_log_of_decisions_names_what_exists():
    text = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:benchmarks|docs)/[\w./-]+)`", text)
    assert len(files) >= 4 and all((ROOT / path).is_file() for path in files)
    lessons = {path.name.split("-")[0] for path in (ROOT / "notebooks").rglob("*.ipynb")}
    assert set(re.findall(r"lessons? (\d\.\d)", text)) <= lessons
    dates = re.findall(r"^\| (\d{4}-\d\d-\d\d) \|", text, re.MULTILINE)
    assert len(dates) > 15


def test_the_readme_lists_every_lesson_and_lab_with_its_minutes():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    course = yaml.safe_load((ROOT / "course_utils/learn/course.yaml").read_text(encoding="utf-8"))
    rows = dict(re.findall(r"^\| [\d.]+ \[[^\]]+\]\(([^)]+)\) \| (\d+) \|$", readme, re.MULTILINE))
    there = {
        str(p.relative_to(ROOT))
        for folder in ("notebooks", "labs")
        for p in (ROOT / folder).glob("*/*.ipynb")
    }
    assert set(rows) == there
    assert all(
        int(minutes) == (course["lessons"] | course["labs"])[Path(path).stem]["minutes"]
        for path, minutes in rows.items()
    )
