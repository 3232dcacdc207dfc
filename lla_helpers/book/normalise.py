"""A notebook's executed form without what differs from run to run for no reason of its own."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lla_helpers.book.notebook import source, tags

# Timings, tool versions and widget state; what a chapter says of itself stays.
VOLATILE = {"papermill", "execution", "ExecuteTime", "widgets", "scrolled", "collapsed"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"}
HEX_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")  # matplotlib's animations
CELL_FILE = re.compile(r"\S*ipykernel_\d+[/\\]\d+\.py")


def normalised(notebook: Mapping, root: Path) -> dict:
    """A copy with stable metadata, cell ids, execution counts, outputs and paths."""
    notebook = copy.deepcopy(dict(notebook))
    kept = {k: v for k, v in notebook.get("metadata", {}).items() if k not in VOLATILE}
    notebook["metadata"] = {**kept, "kernelspec": KERNEL, "language_info": LANGUAGE}
    with_ids(notebook)
    count = 0
    for cell in notebook["cells"]:
        cell["metadata"] = tidy(cell.get("metadata", {}))
        if cell["cell_type"] != "code":
            continue
        ran = bool(source(cell).strip())
        count += ran
        cell["execution_count"] = count if ran else None
        cell["outputs"] = [steady(o, cell, root) for o in merged(cell.get("outputs", []))]
    return notebook


def with_ids(notebook: dict) -> dict:
    """Give every cell without an id of its own one that depends on its place and text only."""
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    seen: set[str] = set()
    for i, cell in enumerate(notebook["cells"]):
        if "injected-parameters" in tags(cell):  # papermill draws a random one
            cell["id"] = "injected-parameters"
        if not cell.get("id") or cell["id"] in seen:
            cell["id"] = hashlib.sha256(f"{i} {source(cell)}".encode()).hexdigest()[:8]
        seen.add(cell["id"])
    return notebook


def tidy(metadata: Mapping) -> dict:
    kept = {key: value for key, value in metadata.items() if key not in VOLATILE}
    if not kept.get("tags", True):
        del kept["tags"]  # papermill adds an empty list to every cell
    return kept


def merged(outputs: list[dict]) -> list[dict]:
    """Neighbouring stream outputs become one of stdout, then one of stderr.

    How a stream is cut, and how the two interleave, depends on the machine's mood.
    """
    result: list[dict] = []
    streams: dict[str, dict] = {}
    for output in outputs:
        if output["output_type"] != "stream":
            result += in_order(streams)
            streams = {}
            result.append(output)
            continue
        first = streams.setdefault(output["name"], {**output, "text": ""})
        first["text"] += joined(output["text"])
    return result + in_order(streams)


def in_order(streams: Mapping[str, dict]) -> list[dict]:
    return [streams[name] for name in sorted(streams, reverse=True)]


def steady(output: dict, cell: Mapping, root: Path) -> dict:
    """One output without machine's paths and random ids, its count that of its cell."""
    if "execution_count" in output:
        output["execution_count"] = cell["execution_count"]
    if "text" in output:
        output["text"] = relative(joined(output["text"]), root)
    data = output.get("data", {})
    for kind, content in data.items():
        if kind.startswith("image/") and kind != "image/svg+xml":
            data[kind] = joined(content).strip() + "\n"
        elif isinstance(content, str | list) and kind.startswith(("text/", "image/svg")):
            data[kind] = relative(joined(content), root)
            if kind == "text/html":
                data[kind] = renumbered(data[kind], cell["id"])
    return output


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def relative(text: str, root: Path) -> str:
    """Replace what names this machine's folders by what is the same on any."""
    text = CELL_FILE.sub("code cell", text)
    environment = Path(sys.prefix if sys.prefix != sys.base_prefix else "/")
    for folder, name in (
        (environment, ".venv"),
        (root, "."),
        (Path(tempfile.gettempdir()), "/tmp"),
        (Path.home(), "~"),
    ):
        if len(folder.parts) > 1:  # "/" would match every path there is
            text = re.sub(rf"(?<![\w.-]){re.escape(str(folder))}(?![\w.-])", name, text)
    return text


def renumbered(text: str, cell_id: str) -> str:
    """Replace random ids by ones that depend on the cell and their order only."""
    order: dict[str, str] = {}
    for found in HEX_ID.findall(text):
        order.setdefault(found, hashlib.md5(f"{cell_id} {len(order)}".encode()).hexdigest())
    return HEX_ID.sub(lambda match: order[match[0]], text)


def as_bytes(notebook: Mapping) -> bytes:
    """The notebook as Jupyter stores it: keys sorted, texts as lists of lines."""
    notebook = copy.deepcopy(dict(notebook))
    for cell in notebook["cells"]:
        cell["source"] = source(cell).splitlines(keepends=True)
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = joined(output["text"]).splitlines(keepends=True)
            for kind, content in output.get("data", {}).items():
                if kind.startswith(("text/", "image/svg")):
                    output["data"][kind] = joined(content).splitlines(keepends=True)
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode()
