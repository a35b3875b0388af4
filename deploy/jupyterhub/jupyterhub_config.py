"""JupyterHub for one class on one machine, with nbgrader's exchange and formgrader.

Set-up: docs/instructor.md.

    sudo HUB_INSTRUCTORS="ada" .venv/bin/jupyterhub -f deploy/jupyterhub/jupyterhub_config.py

Learners and instructors are accounts of this machine (PAM). `HUB_TRIAL=password` tries it out
without root and without accounts: all servers run as you and can read each other's files, so that
is for a look and not for a class.
"""

import getpass
import os
import random
import resource
import sys
from pathlib import Path

from jupyterhub.spawner import LocalProcessSpawner, SimpleLocalProcessSpawner

c = get_config()  # noqa: F821  JupyterHub gives it

COURSE = "compression"
HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
# gradebook, submitted/, ...: belongs to the account GRADER
CLASS = Path(os.environ.get("HUB_CLASS", "/srv/class"))
EXCHANGE = Path(os.environ.get("HUB_EXCHANGE", "/srv/exchange"))
# the hub's own: only for the account that runs it
DATA = Path(os.environ.get("HUB_DATA", "/srv/jupyterhub"))
GRADER = os.environ.get("HUB_GRADER", "grader")
INSTRUCTORS = os.environ.get("HUB_INSTRUCTORS", "").split()
TRIAL = os.environ.get("HUB_TRIAL")

# Learners hand in by writing here. nbgrader itself makes the folders inside: outbound/ to read,
# inbound/ to write but
# not to list, so that nobody sees what others handed in. The sticky bit keeps learners from
# removing those folders.
EXCHANGE.mkdir(parents=True, exist_ok=True)
EXCHANGE.chmod(0o1777)
DATA.mkdir(parents=True, exist_ok=True)
DATA.chmod(0o700)

# TLS: put a web server such as Caddy before it
c.JupyterHub.bind_url = os.environ.get("HUB_URL", "http://127.0.0.1:8000")
c.JupyterHub.db_url = f"sqlite:///{DATA / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(DATA / "cookie_secret")
c.JupyterHub.cleanup_servers = True  # nothing outlives the hub
# The package from PyPI, so that no Node is needed. JupyterHub's own, from npm, takes the same
# options.
# by default it drops what takes longer than 20 s: a server that starts among many, an autograding
c.ConfigurableHTTPProxy.command = [
    str(BIN / "configurable-http-proxy"), "--proxy-timeout", str(3_600_000),
]  # fmt: skip
c.ConfigurableHTTPProxy.pid_file = str(DATA / "proxy.pid")


# Who may come in. For accounts of a school take oauthenticator or jupyterhub-ltiauthenticator
# (Moodle, Canvas) in the
# place of PAM, with `c.LocalAuthenticator.create_system_users = True`.
if TRIAL:
    c.JupyterHub.authenticator_class = "shared-password"
    c.SharedPasswordAuthenticator.user_password = TRIAL
    c.Authenticator.allow_all = True
else:
    c.JupyterHub.authenticator_class = "pam"
    c.PAMAuthenticator.allowed_groups = {"learners"}  # a group of this machine
    c.Authenticator.allowed_users = set(INSTRUCTORS)


class LimitedSpawner(SimpleLocalProcessSpawner if TRIAL else LocalProcessSpawner):
    """A server whose processes have limits: `mem_limit` bytes each, together `cpu_limit` cores."""

    def make_preexec_fn(self, name):
        become_learner = super().make_preexec_fn(name)

        def preexec():
            resource.setrlimit(resource.RLIMIT_DATA, (int(self.mem_limit), int(self.mem_limit)))
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, random.sample(cores, min(int(self.cpu_limit), len(cores))))
            if not TRIAL:  # this one counts all processes of an account
                resource.setrlimit(resource.RLIMIT_NPROC, (512, 512))
            become_learner()

        return preexec


# These limits hold for each process, and a learner can choose other cores. Where a class must be
# held strictly, let
# systemd do it (`pip install jupyterhub-systemdspawner`, spawner_class = "systemd") or containers
# (`pip install
# dockerspawner`, spawner_class = "docker"): both take mem_limit and cpu_limit from here for a whole
# server. A container
# needs an image with the course, EXCHANGE as a volume, and a user id of its own for each learner.
# Neither is in the tests.
c.JupyterHub.spawner_class = LimitedSpawner
c.Spawner.mem_limit = os.environ.get("HUB_MEMORY", "4G")
c.Spawner.cpu_limit = float(os.environ.get("HUB_CPUS", 1))
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.http_timeout = 120
c.SimpleLocalProcessSpawner.home_dir_template = str(DATA / "home" / "{username}")

# no login shell: it would forget PATH
server = ["--ServerApp.terminado_settings={'shell_command': ['/bin/bash']}"]
server += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
server += ["--allow-root"] if TRIAL and getpass.getuser() == "root" else []
environment = {
    "JUPYTER_CONFIG_PATH": str(HERE),  # nbgrader_config.py
    "HUB_EXCHANGE": str(EXCHANGE),
    "COURSE_HOME": "~/.course",  # progress: the course itself is nobody's to write in
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": str(max(1, int(c.Spawner.cpu_limit))),
}
c.Spawner.args = server
c.Spawner.environment = environment
c.Spawner.default_url = "/lab"

# The formgrader is a server of its own in the class folder, as the account GRADER, open to the
# instructors.
# nbgrader finds it by the name of the course and the group formgrade-<course>.
trial = {"HUB_TRIAL": "yes"} if TRIAL else {}
service = {
    "name": COURSE,
    "url": f"http://127.0.0.1:{os.environ.get('HUB_FORMGRADER_PORT', 9999)}",
    "command": [*c.Spawner.cmd, *server],
    "cwd": str(CLASS),
    "environment": {
        **environment,
        **trial,
        "HUB_CLASS": str(CLASS),
        "HOME": str(CLASS),
        "JUPYTERHUB_DEFAULT_URL": "/lab",
    },
    "oauth_no_confirm": True,
    "timeout": 300,  # seconds until it has started
}
c.JupyterHub.services = [service if TRIAL else {**service, "user": GRADER}]
c.JupyterHub.load_groups = {f"formgrade-{COURSE}": {"users": INSTRUCTORS}}
c.JupyterHub.load_roles = [
    {
        "name": f"formgrade-{COURSE}",
        "groups": [f"formgrade-{COURSE}"],
        "scopes": [
            f"access:services!service={COURSE}",
            "list:services",
            f"read:services!service={COURSE}",
        ],
    }
]
