"""A study is many independent items; each finished one is kept, so an interrupted study goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.about import about
from lla_helpers.book.files import write_whole

ROOT = Path(__file__).resolve().parents[1]


def run_items(
    name: str,
    items: Mapping[str, Mapping],
    measure: Callable[..., dict],
    code: str,
    *,
    folder: Path | None = None,
    out: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    versions: Mapping[str, str] | None = None,
) -> Path:
    """measure(**items[key]) for every key, then one JSON file with all rows, in the items' order.

    A finished item lies in `folder` under a hash of its key, its arguments and `code`; there it is
    found again after an interruption, and a file that cannot be read is measured anew. The result
    is written whole, when all items are there.
    """
    folder = folder or ROOT / "_build" / "studies" / name
    out = out or ROOT / "data" / "results" / f"{name}.json"
    rows = []
    for number, (key, arguments) in enumerate(items.items(), 1):
        what = json.dumps([key, dict(arguments), code], sort_keys=True)
        kept = folder / f"{hashlib.sha256(what.encode()).hexdigest()[:20]}.json"
        row = readable(kept)
        if row is None:
            row = {"key": key, **arguments, **measure(**arguments)}
            write_whole(kept, as_json(row))
        rows.append(row)
        tell(f"{name}: {number} of {len(items)} ({key})")
    facts = about(dict(versions or {}), command=f"python -m studies run {name}")
    write_whole(out, as_json({"about": facts, "rows": rows}))
    return out


def readable(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def as_json(data) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
