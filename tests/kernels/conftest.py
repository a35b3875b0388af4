import pytest

from course_utils import kernels


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """Every test here needs the compiled products; a machine without a compiler is a failure, not a
    skip.
    """
    assert kernels.cpu.variants(), "no kernels: is a C++ compiler installed?"
