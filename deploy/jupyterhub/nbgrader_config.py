"""nbgrader under the hub: read by the servers of learners and by the formgrader."""

import os

c = get_config()  # noqa: F821  nbgrader gives it

c.CourseDirectory.course_id = "compression"
c.Exchange.root = os.environ["HUB_EXCHANGE"]
if "HUB_CLASS" in os.environ:
    c.CourseDirectory.root = os.environ["HUB_CLASS"]
    # the formgrader's own Autograde would run learners' code as this account; with this it stops
    # and says what to do
    c.Execute.kernel_name = "none-but-course-grade-in-a-terminal"
    # everybody may write into the exchange: a folder in a learner's name counts if that account has
    # made it
    c.ExchangeFactory.collect = "course_utils.grade.exchange.OwnersCollect"
    c.ExchangeCollect.check_owner = "HUB_TRIAL" not in os.environ  # there all accounts are one
else:  # a learner: the name in the hub counts, whatever the account is called
    c.CourseDirectory.student_id = os.environ["JUPYTERHUB_USER"]
