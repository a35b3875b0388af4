"""From dots to the pictures of the digits' file, and what is said where nobody can draw."""

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.learn import drawing


def test_a_full_square_and_blocks_of_four():
    assert (drawing.image(torch.ones(32, 32, dtype=torch.bool)) == 1).all()
    dots = torch.zeros(32, 32, dtype=torch.bool)
    dots[:, :16] = True  # a bar is moved to the middle
    assert torch.equal(
        drawing.image(dots).view(8, 8).sum(0), torch.tensor([0.0, 0, 8, 8, 8, 8, 0, 0])
    )


def test_small_drawings_are_enlarged():
    big, small = torch.zeros(32, 32, dtype=torch.bool), torch.zeros(32, 32, dtype=torch.bool)
    big[:, 8:24] = True
    small[3:19, 5:13] = True
    assert torch.equal(drawing.image(big), drawing.image(small))


def test_squares_are_cut_side_by_side():
    dots = torch.zeros(32, 64, dtype=torch.int)
    dots[10:20, 40:50] = 1
    first, second = drawing.squares("".join(map(str, dots.flatten().tolist())), 2)
    assert first is None and second is not None and (second == 1).all()
    with pytest.raises(CompressionError, match="squares have 2048"):
        drawing.squares("01", 2)


def test_without_a_kernel_that_lives_a_sentence_stands_there(capsys):
    drawing.draw(lambda images: "never")
    assert "sliders" in capsys.readouterr().out
