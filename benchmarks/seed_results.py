"""What a benchmark over several seeds has done so far: kept in a file, told in a table. It measures nothing itself."""

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peers.process import Peer

from keras_transformer import files


class Column(NamedTuple):
    """A figure of a model, as a mean over the seeds."""

    title: str
    key: str
    form: str


class SeedResults:
    """Seed -> model -> its figures, in a JSON file that is whole after each model.

    Args:
        path: of the file; what is in it is done.
        described: the sizes that the figures belong to; another run with other ones is refused.
        changed: called after each model.
    """

    def __init__(self, path: Path, described: str, changed: Callable[["SeedResults"], None]) -> None:
        self.path, self.changed = path, changed
        self.done: dict[str, Any] = files.read_json(path) if path.exists() else {}
        if self.done.setdefault("sizes", described) != described:
            raise SystemExit(f"{path} was made with {self.done['sizes']}. Move it away, or use those.")

    @property
    def seeds(self) -> list[str]:
        """Those of which something is done."""
        return sorted((name for name in self.done if name.isdigit() and self.done[name]), key=int)

    @property
    def peer(self) -> str:
        """What the other library says of itself."""
        return self.done.get("peer", "not asked yet")

    def of(self, seed: int | str) -> dict[str, Any]:
        """What is done of a seed."""
        return self.done.setdefault(str(seed), {})

    def met(self, peer: Peer) -> None:
        """Keep the versions of the other library, or why it is absent."""
        self.done["peer"] = peer.absent or ", ".join(f"{name} {value}" for name, value in peer.versions.items())

    def complete(self, seed: int, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Make what isn't done, and keep it."""
        if name in self.of(seed):
            return
        self.of(seed)[name] = made = make()
        print(f"seed {seed}, {name}: {made}", file=sys.stderr, flush=True)
        files.write_json(self.path, self.done)
        self.changed(self)

    def table(self, names: Sequence[str], first: Column, rest: Sequence[Column], reference: str) -> str:
        """A row a model: `first` of each seed, mean, spread, share of `reference`; then the means of the `rest`."""
        seeds = self.seeds
        heads = ["model", *(f"{first.title}, seed {seed}" for seed in seeds), "mean", "spread", f"share of {reference}"]
        heads += [column.title for column in rest]
        lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for name in names:
            told = {seed: self.of(seed)[name] for seed in seeds if name in self.of(seed)}
            if not told:
                continue
            values = [one[first.key] for one in told.values()]
            cells = [format(told[seed][first.key], first.form) if seed in told else "" for seed in seeds]
            spread = format(max(values) - min(values), first.form) if len(values) > 1 else ""
            cells += [format(statistics.mean(values), first.form), spread]
            shared = self.of(seeds[0]).get(reference, {})  # where the seeds have one reference
            bases = {seed: self.of(seed).get(reference, shared).get(first.key, 0.0) for seed in told}
            shares = [one[first.key] / bases[seed] for seed, one in told.items() if bases[seed]]
            cells.append(f"{statistics.mean(shares):.1%}" if shares else "")
            cells += [format(statistics.mean(one[key] for one in told.values()), form) for _, key, form in rest]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)
