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
        """Runs each contestant once a round, in turn, and keeps what it measured; the first round only warms up."""
        for round_number in range(rounds + 1):
            for name, measure in contestants.items():
                for metric, value in measure().items():
                    if round_number > 0:
                        self.add(metric, name, value)

    def print(self) -> None:
        for metric, by in self.samples.items():
            ours, peer = by.get("ours", []), by.get("peer", [])
            ratio = statistics.median(ours) / statistics.median(peer) if ours and peer else None
            spread = "  ".join(f"{name} {min(values):.4g}..{max(values):.4g}" for name, values in by.items())
            print(metric, number(ours), number(peer), "-" if ratio is None else f"{ratio:.3f}", f"  ({spread})", flush=True)


def number(values: list[float]) -> str:
    return f"{statistics.median(values):.4g}" if values else "-"
