"""Collection from the exchange, where everybody may write: only what belongs to the learner that it
names.
"""

import os
import shutil

import pytest
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from course_utils.grade import exchange, gradebook

LAB, COURSE = "lab-a", "compression"


@pytest.fixture
def collect(tmp_path, monkeypatch):
    """Put folders into inbound/ and collect; `owners` says who made which.

    What was collected: learner → file.
    """
    inbound = tmp_path / "exchange" / COURSE / "inbound"
    inbound.mkdir(parents=True)

    def collected(folders, *, check=True):
        for name, text in folders.items():
            (inbound / name).mkdir()
            (inbound / name / f"{LAB}.ipynb").write_text(text)
        owners = {name: text for name, text in folders.items()}
        monkeypatch.setattr(exchange, "owner", lambda path: owners[os.path.basename(path)])
        gradebook.without_alembic()
        config = Config()
        config.CourseDirectory.root, config.CourseDirectory.course_id = str(tmp_path), COURSE
        config.CourseDirectory.assignment_id, config.Exchange.root = LAB, str(tmp_path / "exchange")
        config.OwnersCollect.check_owner = check
        exchange.OwnersCollect(coursedir=CourseDirectory(config=config), config=config).start()
        return {
            p.name: (p / LAB / f"{LAB}.ipynb").read_text()
            for p in (tmp_path / "submitted").glob("*")
        }

    return collected


MINE, NEWER = f"cyd+{LAB}+2026-11-25 10:00:00 UTC", f"cyd+{LAB}+2036-11-25 10:00:00 UTC"


def test_a_folder_in_anothers_name_is_not_collected_and_replaces_nothing(collect):
    assert collect(
        {MINE: "cyd", NEWER: "bob", f"bob+{LAB}+2026-11-25 11:00:00.123456 UTC": "bob"}
    ) == {"cyd": "cyd", "bob": "bob"}


def test_only_anothers_is_none(collect):
    assert collect({NEWER: "bob"}) == {}


@pytest.mark.parametrize(
    "time", ["yesterday", "", "1:" + "1" * 30, "1." * 90, "2026-99-99 10:00:00 UTC"]
)
def test_a_name_without_a_time_stops_nobody(collect, time):
    assert collect({MINE: "cyd", f"bob+{LAB}+{time}": "bob"}) == {"cyd": "cyd"}


def test_where_all_accounts_are_one_names_count(collect):
    assert collect({MINE: "root", f"bob+{LAB}+2026-11-25 11:00:00 UTC": "root"}, check=False) == {
        "cyd": "root",
        "bob": "root",
    }


def test_the_owner_is_the_account_that_made_it(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "linked").symlink_to("/")
    assert exchange.owner(str(tmp_path / "linked")) == "a link"
    if os.geteuid() == 0:
        shutil.chown(tmp_path / "made", "nobody")
        assert exchange.owner(str(tmp_path / "made")) == "nobody"
