"""A Hugging Face folder read block by block: names and shapes at once, numbers when they are asked
for.

transformers' own rules give hub names their place in the model (renamed tensors, experts that are
stacked), so that a block that is read alone is bit for bit the one of `models.load`.
"""

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from course_utils.errors import CompressionError

from . import experts, loading, shipped
from .blocks import blocks
from .empty import compute_buffers, drop, drop_one, empty_like
from .quiet import no_bars

IN_MEMORY = "compress it in memory: the method's own function on models.load(…), or --in-memory"


class Shards:
    """The safetensors files of a model's folder.

    `blank` is the model without numbers; `units` says what each tensor is part of.

    Raises CompressionError, with what to do instead, for a folder without safetensors files, a
    model without a list of blocks, or one whose blocks share weights.
    """

    def __init__(
        self, name: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        name = shipped.resolved(name)
        source, local = loading._source(name)
        if not local:
            raise CompressionError(
                f"model {str(name)!r}: is no folder, so it cannot be read block by block; "
                f"download it (hf download), or {IN_MEMORY}."
            )
        self.folder, self.dtype, self.device = Path(source), dtype, device
        config = loading._load(AutoConfig.from_pretrained, name)
        if getattr(config, "quantization_config", None) is not None:
            raise CompressionError(
                f"model {str(name)!r}: it is compressed already; start from the original."
            )
        self.files = _files(self.folder)
        self.blank = empty_like(loading.auto_class(config), config, dtype).eval()
        compute_buffers(self.blank)
        self.blank.name_or_path = self.blank.config._name_or_path = str(source)  # type: ignore[assignment]
        if (self.folder / "generation_config.json").is_file():
            self.blank.generation_config = GenerationConfig.from_pretrained(self.folder)
        found = blocks(self.blank)
        self.path = next(path for path, module in self.blank.named_modules() if module is found)
        self.count = len(found)
        self._refuse_sharing()
        self.units = self._units()

    def model(self) -> PreTrainedModel:
        """The model without numbers, to hand to a method."""
        return copy.deepcopy(self.blank)

    def fingerprint(self) -> str:
        """Changes when the folder's config or weights change (sizes and times are looked at, not
        every byte).
        """
        files = sorted({file for file in self.files.values()})
        told = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
        return hashlib.sha256(
            (self.folder / "config.json").read_bytes() + json.dumps(told).encode()
        ).hexdigest()

    def bytes(self) -> int:
        """The size of the folder's weights."""
        return sum(file.stat().st_size for file in set(self.files.values()))

    def _refuse_sharing(self) -> None:
        tied = set(getattr(self.blank, "all_tied_weights_keys", None) or {})
        seen: dict[int, str] = {}
        for name, parameter in self.blank.named_parameters(remove_duplicate=False):
            if seen.setdefault(id(parameter), name) != name and (
                name.startswith(f"{self.path}.") or name not in tied
            ):
                raise CompressionError(
                    f"model: {name} is the same weight as {seen[id(parameter)]}, so its blocks "
                    f"cannot be read one by one; {IN_MEMORY}."
                )

    def unit(self, name: str) -> int | None:
        """The number of the block that a tensor of the model belongs to;
        None outside the blocks.
        """
        found = re.match(re.escape(self.path) + r"\.(\d+)\.", name)
        return int(found.group(1)) if found else None

    def _units(self) -> dict[int | None, dict[str, str]]:
        """Block number (None: outside) → {the hub's name of a tensor: our name of what it becomes,
        or becomes a part of}.
        """
        loader, mapping = self._loader()
        kinds = [
            [entry for entry in mapping if isinstance(entry, kind)]
            for kind in (loader.WeightRenaming, loader.WeightConverter)
        ]
        expected = self.blank.state_dict()
        found: dict[int | None, dict[str, str]] = {
            number: {} for number in (None, *range(self.count))
        }
        for name in self.files:
            ours, _ = loader.rename_source_key(name, *kinds, self.blank.base_model_prefix, expected)
            if ours not in expected and name in expected:
                ours = name
            if ours in expected:
                found[self.unit(ours)][name] = ours
        return found

    def _loader(self) -> tuple[Any, list]:
        try:
            from transformers import conversion_mapping, core_model_loading

            return core_model_loading, conversion_mapping.get_model_conversion_mapping(self.blank)
        except (ImportError, AttributeError, TypeError) as error:
            raise CompressionError(
                f"transformers: this version cannot read a model block by block ({error}); "
                f"{IN_MEMORY}."
            ) from error

    def read(self, names: list[str]) -> None:
        """Give `blank` the tensors of these hub names.

        Raises CompressionError for a damaged file.
        """
        from transformers.modeling_utils import LoadStateDictConfig

        loader, mapping = self._loader()
        opened: dict[Path, Any] = {}
        try:
            for file in {self.files[name] for name in names}:
                opened[file] = safe_open(file, framework="pt")
            tensors = {name: opened[self.files[name]].get_slice(name) for name in names}
            with no_bars():
                loader.convert_and_load_state_dict_in_model(
                    self.blank,
                    tensors,
                    LoadStateDictConfig(
                        dtype=self.dtype, weight_mapping=mapping, device_map={"": self.device}
                    ),
                )
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise CompressionError(
                f"model {str(self.folder)!r}: could not be read "
                f"({str(error).strip().splitlines()[0]}); copy it again."
            ) from error

    def block(self, number: int) -> nn.Module:
        """Block `number` as `models.load` reads it, its experts in a list.

        Raises CompressionError where the files lack a tensor.
        """
        self.read(list(self.units[number]))
        mine = blocks(self.blank)[number]
        made = copy.deepcopy(mine, {id(p): p for p in (*mine.parameters(), *mine.buffers())})
        drop(mine)
        check_whole(made, f"{self.path}.{number}", self.folder)
        experts.list_in_place(made)
        return made

    def blank_block(self, number: int) -> nn.Module:
        """A block without its weights."""
        return copy.deepcopy(blocks(self.blank)[number])

    def outside(self, wanted: Any = lambda name: True) -> dict[str, Tensor]:
        """The tensors outside the blocks whose names (ours) are wanted, by name."""
        names = [hub for hub, ours in self.units[None].items() if wanted(ours)]
        if not names:
            return {}
        self.read(names)
        chosen = {ours for hub, ours in self.units[None].items() if hub in names}
        found = {
            name: tensor.detach()
            for name, tensor in self.blank.state_dict().items()
            if name in chosen and not tensor.is_meta
        }
        for name, tensor in found.items():
            module, _, last = name.rpartition(".")
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CompressionError(
                    f"{module}: {last}: contains NaN or infinity; "
                    "repair it before compressing the model."
                )
            drop_one(self.blank.get_submodule(module), last)
        return found

    def lacking(self) -> list[str]:
        """Tensors outside the blocks that no file holds and that are tied to none."""
        tied = set(getattr(self.blank, "all_tied_weights_keys", None) or {})
        have = set(self.units[None].values())
        return [
            name
            for name in self.blank.state_dict()
            if self.unit(name) is None and name not in have and name not in tied
        ]


def check_whole(module: nn.Module, where: str, folder: Path) -> None:
    """Raises CompressionError if a parameter or saved buffer has no values, or a parameter holds
    NaN or infinity.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise CompressionError(
                f"model {str(folder)!r}: its files lack {where}.{name}; copy it again."
            )
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            module_name, _, last = f"{where}.{name}".rpartition(".")
            raise CompressionError(
                f"{module_name}: {last}: contains NaN or infinity; "
                "repair it before compressing the model."
            )


def _files(folder: Path) -> dict[str, Path]:
    """The hub's name of each tensor → the file that holds it."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            return {
                name: folder / file
                for name, file in json.loads(index.read_text(encoding="utf-8"))[
                    "weight_map"
                ].items()
            }
        single = folder / "model.safetensors"
        if not single.is_file():
            raise CompressionError(
                f"model {str(folder)!r}: it has no model.safetensors, so it cannot be read block "
                f"by block; {IN_MEMORY}."
            )
        with safe_open(single, framework="pt") as content:
            return {name: single for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CompressionError(
            f"model {str(folder)!r}: could not be read ({error}); copy it again."
        ) from error
