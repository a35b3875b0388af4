"""The file of the challenge (lab 5.4): one Llama model in few bytes.

Reading it needs numpy alone and runs nothing of the file.

file.py      MAGIC, the length of the header, the header (JSON under zlib), then the streams one
             after the other
layout.py    which sizes a model may have, and the shapes that follow from them
codecs.py    what the codecs mean: bf16, f16, grid, coded, ternary, table, product, masked, sum
encoders.py  the same codecs, written
recipes.py   baselines: rounding, GPTQ, the walk with coded codes
gates.py     what a file is worth: its bytes behind gates of quality
model.py     from a Hugging Face model to a file and back (the last three need torch)
"""
