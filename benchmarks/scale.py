"""How much a run measures: sizes and rounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes in layers and files; rounds, an even number as every other runs backwards, and operations in each of them.

    Attributes:
        layers: of the store that everything is measured on that is not about size.
        sizes: of the stores that are compared by size, the smallest first.
        files: of the directory that is imported and exported.
    """

    layers: int = 20_000
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    files: int = 200_000
    read_rounds: int = 20
    reads: int = 2000
    write_rounds: int = 14
    writes: int = 50
    bulk_rounds: int = 3
    import_rounds: int = 6
    export_rounds: int = 4
    starts: int = 14
    contended_rounds: int = 3
    contended_s: float = 5

    def __str__(self) -> str:
        sizes = " and ".join(f"{layers:,}" for layers in (self.sizes[0], self.sizes[-1]))
        return (
            f"{self.layers:,} layers; the smallest and the largest store have {sizes}, the directory has"
            f" {self.files:,} files"
        )


FULL = Scale()
QUICK = Scale(
    layers=2000,
    sizes=(1000, 2000, 4000),
    files=8000,
    read_rounds=8,
    reads=500,
    write_rounds=6,
    writes=20,
    bulk_rounds=1,
    import_rounds=4,
    export_rounds=2,
    starts=6,
    contended_rounds=1,
    contended_s=1,
)
