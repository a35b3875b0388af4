"""What the layers of a block are given, by hooks on the whole model: a reference for code that runs
block by block.
"""

import torch

from course_utils.models import walk


@torch.no_grad()
def inputs_of(model, block, ids):
    """Layer → its inputs (tokens, in), for each linear layer of the block while the model reads
    `ids`.
    """
    seen: dict = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda m, args: seen.setdefault(m, []).append(args[0].flatten(0, -2))
        )
        for module in walk.linears(block).values()
    ]
    model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return {module: torch.cat(parts) for module, parts in seen.items()}
