"""The set-up files agree with each other, and the second installation does nothing."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from course_utils import bootstrap, cli

ROOT = Path(__file__).resolve().parents[2]


def names(text: str) -> set[str]:
    return {n.lower() for n in re.findall(r"^\s*\"?([A-Za-z][\w.-]*)\s*[><=]=", text, re.MULTILINE)}


def test_bootstrap_needs_only_the_standard_library():
    tree = ast.parse((ROOT / "course_utils/bootstrap.py").read_text(encoding="utf-8"))
    modules = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    modules |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert modules <= set(sys.stdlib_module_names)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, course_utils.bootstrap; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


def test_constraints_pin_core_packages_with_a_marker():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+; python_version >= "3\.11"', pin) for pin in pins)
    assert {"torch", "transformers", "jupyterlab", "pytest", "nbval", "papermill"} <= names("\n".join(pins))


def test_extras_and_core_are_declared():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = {"torch", "transformers", "jupyterlab", "matplotlib", "ipywidgets", "bitsandbytes", "nbval", "papermill"}
    assert declared <= names(text)
    for extra in ("gpu", "gptq", "deploy", "eval", "grade", "cluster", "dev"):
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
    monkeypatch.setattr(bootstrap.venv, "create", lambda folder, **_: Path(folder).mkdir(exist_ok=True))
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, **_: calls.append(command) or 0)
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


def test_unsupported_python_is_named(project, monkeypatch):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 0))
    with pytest.raises(SystemExit, match=r"3\.10 to 3\.13"):
        bootstrap.install()


def test_the_real_model_is_an_extra_installed_once_and_alone(project):
    _, calls = project
    for action in ("install", "real", "real"):
        assert bootstrap.main([action]) == 0
    whole = [" ".join(call) for call in calls]
    assert sum("[real]" in call for call in whole) == 1 and [call for call in calls if bootstrap.MODEL in call] == [calls[-1]]
    assert "--no-deps" in calls[-1] and "real" not in bootstrap.EXTRAS.split(",")


def test_the_site_is_built_with_its_own_extra(project):
    _, calls = project
    for action in ("site", "site"):
        assert bootstrap.main([action]) == 0
    assert sum("[site]" in " ".join(call) for call in calls) == 1 and "docs/site/build.py" in calls[-1]
    assert "site" not in bootstrap.EXTRAS.split(",")


@pytest.mark.parametrize(("user", "told"), [(0, True), (1000, False)])
def test_lab_opens_the_start_page(project, monkeypatch, user, told):
    _, calls = project
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: user, raising=False)
    assert bootstrap.main(["lab"]) == 0
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
    assert {"cff-version", "message", "title", "authors"} <= set(citation) and citation["license"] == "Apache-2.0"


def test_the_log_of_decisions_names_what_exists():
    text = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:benchmarks|docs)/[\w./-]+)`", text)
    assert len(files) >= 4 and all((ROOT / path).is_file() for path in files)
    lessons = {path.name.split("-")[0] for path in (ROOT / "notebooks").rglob("*.ipynb")}
    assert set(re.findall(r"lessons? (\d\.\d)", text)) <= lessons
    dates = re.findall(r"^\| (\d{4}-\d\d-\d\d) \|", text, re.MULTILINE)
    assert len(dates) > 15
