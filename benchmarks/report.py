"""Results as text."""

from __future__ import annotations


def shown(s: dict | None, digits: int = 2) -> str:
    """Median and quartiles."""
    if s is None:
        return "-"
    return f"{s['median']:.{digits}f} ({s['low']:.{digits}f}..{s['high']:.{digits}f})"


def speed(results: dict, unit: str = "ms per vector", scale: float = 1.0) -> str:
    lines = []
    for label, row in results.items():
        lines.append(f"\n{label}: {unit}, median (quartiles)")
        for name, s in row["ms"].items():
            s = {key: scale * value for key, value in s.items()}
            times = row["over_gradient"].get(name)
            gradients = f"  {times['median']:.2f} gradients" if times else ""
            over = row["over_each"].get(name)
            ours = f"  ours over it {shown(over)}" if over else ""
            lines.append(f"  {name:28} {shown(s):>26}{gradients}{ours}")
        best = row["fastest_peer"]
        lines.append(f"  ours over the fastest peer ({best}): {shown(row['over_fastest_peer'])}")
    return "\n".join(lines)


def accuracy(results: dict) -> str:
    lines = [
        f"\nW1 <= {results['goal']:g} of the range in 19 of 20, {results['net']}, "
        f"{results['seeds']} seeds"
    ]
    for label, row in results["settings"].items():
        probes = f"{row['probes']} probes" if row["probes"] else "not with the probes tried"
        median, worst = row["W1_over_range"]["median"], row["worst"]
        seconds = f"  {shown(row['seconds'], 3)} s" if "seconds" in row else ""
        default = " (default)" if row["default"] else ""
        lines.append(
            f"  {label + default:42} {probes:26} W1 {median:.1e}, worst {worst:.1e}{seconds}"
        )
    for what, found in results["comparisons"].items():
        text = f"{shown(found['ratio'])}, {found['ours']} over {found['peer']}" if found else "-"
        lines.append(f"  {what}: {text}")
    return "\n".join(lines)


def memory(rows: list[dict]) -> str:
    lines = []
    for r in rows:
        kept = r["peak_beyond_that_GiB"] <= r["cap_GiB"]
        lines.append(
            f"cap {r['cap_GiB']:g} GiB: peak {r['peak_beyond_that_GiB']:.2f} GiB beyond the "
            f"{r['before_GiB']:.2f} before, {'kept' if kept else 'NOT KEPT'}; basis "
            f"{r['basis_GiB']:.2f} GiB; {r['seconds']:.0f} s for {r['products']} products"
        )
    return "\n".join(lines)


TEXT = {
    "products": speed,
    "loaders": speed,
    "slq": lambda results: speed(results, "seconds of a whole SLQ", 1e-3),
    "accuracy": accuracy,
}
