"""The papers' figures, as printed: test accuracies in %, seconds per step, megabytes; mean ± standard deviation.

ATOM is Khaki, Sajedi et al. (2024), DataDAM Sajedi et al. (2023). Of table 1 only the methods are held that run here; what
ATOM prints for older methods is what DataDAM's table 1 prints, but for CAFE, whose augmented form DataDAM calls CAFE, and
DSA on Tiny ImageNet at IPC 50 (15.1 in ATOM, 5.1 in DataDAM).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One printed value, in the paper's own digits; ``source`` says where it stands."""

    text: str
    source: str

    @property
    def mean(self) -> float:
        return float(self.text.partition("±")[0])

    @property
    def std(self) -> float | None:
        """None where the paper prints none."""
        spread = self.text.partition("±")[2]
        return float(spread) if spread else None

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, **asdict(self)}


def grid(columns: tuple[str, ...], rows: Mapping[str, str], source: str) -> dict[tuple[str, str], Figure]:
    """Figures by (row, column), from one line of text per row, "-" for none. Raises ValueError for a line of another length."""
    return {
        (row, column): Figure(text=text, source=source)
        for row, line in rows.items()
        for column, text in zip(columns, line.split(), strict=True)
        if text != "-"
    }


DATASETS = ("CIFAR-10", "CIFAR-100", "Tiny ImageNet")
IPCS = (1, 10, 50)

TABLE_1 = grid(
    tuple(f"{dataset}, IPC {ipc}" for dataset in DATASETS for ipc in IPCS),
    {
        "random": "14.4±2.0 26.0±1.2 43.4±1.0 4.2±0.3 14.6±0.5 30.0±0.4 1.4±0.1 5.0±0.2 15.0±0.4",
        "herding": "21.5±1.2 31.6±0.7 40.4±0.6 8.3±0.3 17.3±0.3 33.7±0.5 2.8±0.2 6.3±0.2 16.7±0.3",
        "k-center": "21.5±1.3 14.7±0.9 27.0±1.4 8.4±0.3 17.3±0.3 30.5±0.3 - - -",
        "forgetting": "13.5±1.2 23.3±1.0 23.3±1.1 4.5±0.2 15.1±0.3 - 1.6±0.1 5.1±0.2 15.0±0.3",
        "dc": "28.3±0.5 44.9±0.5 53.9±0.5 12.8±0.3 25.2±0.3 30.6±0.6 5.3±0.1 12.9±0.1 12.7±0.4",
        "dsa": "28.8±0.7 52.1±0.5 60.6±0.5 13.9±0.3 32.3±0.3 42.8±0.4 5.7±0.1 16.3±0.2 15.1±0.2",
        "dm": "26.0±0.8 48.9±0.6 63.0±0.4 11.4±0.3 29.7±0.3 43.6±0.4 3.9±0.2 12.9±0.4 25.3±0.2",
        "cafe": "31.6±0.8 50.9±0.5 62.3±0.4 14.0±0.3 31.5±0.2 42.9±0.2 - - -",
        "datadam": "32.0±1.2 54.2±0.8 67.0±0.4 14.5±0.5 34.8±0.5 49.4±0.3 8.3±0.4 18.7±0.3 28.7±0.3",
        "atom": "34.8±1.0 57.9±0.7 68.8±0.5 18.1±0.4 35.7±0.4 50.2±0.3 9.1±0.2 19.5±0.4 29.1±0.3",
    },
    "ATOM, table 1",
)

ARCHITECTURES = ("convnet", "alexnet", "vgg11", "resnet18", "vit")
TABLE_2 = grid(
    ARCHITECTURES,
    {
        "dc": "53.9±0.5 28.8±0.7 38.8±1.1 20.9±1.0 30.1±0.5",
        "cafe": "62.3±0.4 43.2±0.4 48.8±0.5 43.3±0.7 22.7±0.7",
        "dsa": "60.6±0.5 53.7±0.6 51.4±1.0 47.8±0.9 43.3±0.4",
        "dm": "63.0±0.4 60.1±0.5 57.4±0.8 52.9±0.4 45.2±0.4",
        "datadam": "67.0±0.4 63.9±0.9 64.8±0.5 60.2±0.7 48.2±0.8",
        "atom": "68.8±0.4 64.1±0.7 66.4±0.6 64.5±0.6 49.5±0.7",
    },
    "ATOM, table 2",
)

COSTS = tuple(f"{what}, IPC {ipc}" for what in ("seconds", "MB") for ipc in IPCS)
TABLE_3 = grid(
    COSTS,
    {
        "dc": "0.16±0.01 3.31±0.02 15.74±0.10 3515 3621 4527",
        "dsa": "0.22±0.02 4.47±0.12 20.13±0.58 3513 3639 4539",
        "dm": "0.08±0.02 0.08±0.02 0.08±0.02 3323 3455 3605",
        "datadam": "0.09±0.01 0.08±0.01 0.16±0.04 3452 3561 3724",
        "atom-channel": "0.08±0.02 0.08±0.02 0.13±0.03 3152 3263 4151",
        "atom": "0.10±0.02 0.10±0.01 0.17±0.02 3601 4314 5134",
    },
    "ATOM, table 3 (A100)",
)

# Rows as docs/recipes.md names them.
TABLE_4 = grid(
    ("IPC 50",),
    {
        "mean embedding alone": "63.0±0.4",
        "feature maps": "60.8±0.6",
        "spatial": "67.0±0.7",
        "channel": "68.6±0.3",
        "both": "68.8±0.5",
    },
    "ATOM, table 4",
)

POWERS = (1, 2, 4, 8)
TABLE_5 = grid(
    tuple(f"p_s = {power}" for power in POWERS),
    {
        "p_c = 1": "57.4 57.5 57.0 56.2",
        "p_c = 2": "58.2 57.5 57.2 56.3",
        "p_c = 4": "58.4 58.5 57.9 57.6",
        "p_c = 8": "58.8 58.7 58.2 57.8",
    },
    "ATOM, table 5",
)

_DATADAM_5 = {"L_MMD": "48.9±0.6", "L_SAM": "49.8±0.7", "feature maps": "47.2±0.3", "L_MMD and L_SAM": "54.2±0.8"}
_DATADAM_6 = {"last": "48.9±0.6", "1 and last": "50.2±0.4", "2 and last": "51.5±1.0", "1 and 2": "49.8±0.7"}
# Its figures 3, 4, 8, 12 and 13 are plots, with no values beside them: only the row of its own choice is printed elsewhere.
STUDIES: dict[tuple[str, str], Figure] = {
    **{("DataDAM, table 5", row): value for (row, _), value in grid(("",), _DATADAM_5, "DataDAM, table 5").items()},
    **{
        ("DataDAM, table 6", row): value
        for (row, _), value in grid(("",), {**_DATADAM_6, "all": "54.2±0.8"}, "DataDAM, table 6").items()
    },
    ("DataDAM, table 11", "MMD in pixel space"): Figure(text="34.9±0.3", source="DataDAM, table 11"),
    **{
        place: Figure(text="54.2±0.8", source="DataDAM, table 1")
        for place in (
            ("DataDAM, figure 4", "chosen for 32x32"),
            ("DataDAM, figure 8", "p = 4"),
            ("DataDAM, figure 12", "mean squared"),
            ("DataDAM, figure 13", "L2"),
        )
    },
    ("DataDAM, figure 3", "random images"): Figure(text="67.0±0.4", source="DataDAM, table 1"),
}
