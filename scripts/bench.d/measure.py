"""Two contestants in turn, and the medians of what they did."""

import statistics
from collections.abc import Callable


class Results:
    """Samples by metric and contestant."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, list[float]]] = {}

    def add(self, metric: str, contestant: str, value: float) -> None:
        self.samples.setdefault(metric, {}).setdefault(contestant, []).append(value)

    def alternate(self, rounds: int, contestants: dict[str, Callable[[], dict[str, float]]]) -> None:
        """Runs each contestant once a round, in turn, and keeps what it measured; the first round only warms up.

        The second round begins with who ended the first, and so on: neither is always the one that comes after the other.
        """
        for round_number in range(rounds + 1):
            order = list(contestants)
            for name in order if round_number % 2 else reversed(order):
                for metric, value in contestants[name]().items():
                    if round_number > 0:
                        self.add(metric, name, value)

    def print(self) -> None:
        """The medians of both, and the median of the rounds' ratios: what disturbs a machine for longer than a round is in both."""
        for metric, by in self.samples.items():
            ours, peer = by.get("ours", []), by.get("peer", [])
            ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, peer, strict=True)) if ours and peer else None
            spread = "  ".join(f"{name} {min(values):.4g}..{max(values):.4g}" for name, values in by.items())
            print(metric, number(ours), number(peer), "-" if ratio is None else f"{ratio:.3f}", f"  ({spread})", flush=True)


def number(values: list[float]) -> str:
    return f"{statistics.median(values):.4g}" if values else "-"
