"""nbgrader's collection from the exchange, where everybody may write: only folders that belong to
the learner they name.

nbgrader itself warns of a folder that another account has made, and collects it, as the newest one
even in the place of the learner's own.
"""

import os
import pwd
import re
from typing import Any

from nbgrader.exchange.default import ExchangeCollect
from nbgrader.utils import parse_utc

TIME = re.compile(
    r"\+\d{4}-\d\d?-\d\d?[ T]\d\d?:\d\d(:\d\d(\.\d{1,9})?)?( "
    r"?[A-Za-z]{1,5}|[+-]\d\d:?\d\d)?(\+[\w-]{1,40})?$"
)


class OwnersCollect(ExchangeCollect):  # type: ignore[misc]
    """With `check_owner` off (all accounts are one), as nbgrader does it."""

    def _path_to_record(self, path: str) -> dict[str, Any]:
        why = ""
        try:
            record: dict[str, Any] = super()._path_to_record(path) if TIME.search(path) else {}
        except (ValueError, OverflowError):
            record = {}
        if not record:
            why = "its name has no time"
        elif self.check_owner and (whose := owner(path)) != record["username"]:
            why = f"made by {whose}, not by {record['username']}; cheating attempt?"
        if why:
            self.log.error("%s: %s. It is not collected.", path, why)
            return {
                "username": None,
                "filename": os.path.basename(path),
                "timestamp": parse_utc("1970-01-01 00:00:00 UTC"),
            }
        return record

    def init_src(self) -> None:
        """Nbgrader's list of submissions, without those of unknown users."""
        super().init_src()
        found: list[dict[str, Any]] = getattr(self, "src_records")  # noqa: B009  nbgrader makes it
        self.src_records = [record for record in found if record["username"] is not None]


def owner(path: str) -> str:
    """The account to which a folder belongs; a link is nobody's."""
    status = os.lstat(path)
    if os.path.islink(path):
        return "a link"
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return f"the unknown account {status.st_uid}"
