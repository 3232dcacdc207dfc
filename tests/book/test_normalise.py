"""Two runs of the same chapter are stored as the same bytes, on any machine."""

import sys
from pathlib import Path

from lla_helpers.book.normalise import as_bytes, normalised

ROOT = Path("/somewhere/book")


def executed(ident, seconds, folder, where):
    """What two executions may differ in."""
    return {
        "nbformat": 4,
        "nbformat_minor": 4,
        "metadata": {
            "papermill": {"duration": seconds, "input_path": folder},
            "widgets": {"x": ident},
            "language_info": {"name": "python", "version": f"3.{seconds}"},
            "kernelspec": {"name": ident},
            "title": "kept",
        },
        "cells": [
            {"cell_type": "markdown", "metadata": {"tags": []}, "source": ["# T\n", "text"]},
            {
                "cell_type": "code",
                "id": "own-id",
                "metadata": {
                    "papermill": {"duration": seconds},
                    "execution": {"iopub": seconds},
                    "tags": ["hide-input"],
                    "mystnb": {"image": {"alt": "kept"}},
                },
                "source": "1 + 1",
                "execution_count": seconds,
                "outputs": [
                    {"output_type": "stream", "name": "stderr", "text": ["warn "]},
                    {"output_type": "stream", "name": "stdout", "text": f"{folder}/data/x.npz\n"},
                    {"output_type": "stream", "name": "stderr", "text": where},
                    {
                        "output_type": "execute_result",
                        "execution_count": seconds,
                        "metadata": {},
                        "data": {
                            "text/html": f'<i id="_anim{ident}"></i><b for="_anim{ident}">',
                            "text/plain": "0123456789abcdef0123456789abcdef",
                        },
                    },
                    {"output_type": "stream", "name": "stdout", "text": "after"},
                ],
            },
            {
                "cell_type": "code",
                "metadata": {"tags": []},
                "source": " ",
                "execution_count": None,
                "outputs": [],
            },
        ],
    }


FIRST = executed("a" * 32, 3, str(ROOT), "/tmp/ipykernel_12/34.py:1: UserWarning")
SECOND = executed("b" * 32, 7, "/elsewhere", "/tmp/ipykernel_99/1.py:1: UserWarning")


def test_what_is_volatile_leaves_no_trace():
    first = as_bytes(normalised(FIRST, ROOT))
    assert first == as_bytes(normalised(SECOND, Path("/elsewhere")))
    assert as_bytes(normalised(normalised(FIRST, ROOT), ROOT)) == first, "twice is once"


def test_what_the_chapter_says_is_kept():
    result = normalised(FIRST, ROOT)
    cell = result["cells"][1]
    assert result["metadata"]["title"] == "kept"
    assert (cell["id"], cell["execution_count"]) == ("own-id", 1)
    assert cell["metadata"] == {"tags": ["hide-input"], "mystnb": {"image": {"alt": "kept"}}}
    assert result["cells"][2]["execution_count"] is None, "an empty cell never ran"
    streams = [(o["name"], o["text"]) for o in cell["outputs"] if "name" in o]
    assert streams == [
        ("stdout", "./data/x.npz\n"),
        ("stderr", "warn code cell:1: UserWarning"),
        ("stdout", "after"),
    ]
    data = cell["outputs"][2]["data"]
    assert data["text/plain"] == "0123456789abcdef0123456789abcdef", "a checksum is no random id"
    anchors = data["text/html"].split("_anim")[1:]
    assert anchors[0][:32] == anchors[1][:32] != "a" * 32, "ids that agree still do"


def test_ids_are_unique():
    twins = {**FIRST, "cells": [FIRST["cells"][0], dict(FIRST["cells"][0])]}
    first, second = normalised(twins, ROOT)["cells"]
    assert first["id"] != second["id"]


def test_only_whole_folders_are_shortened():
    text = f"{ROOT}/x {ROOT}s/x {sys.prefix}/lib y/{ROOT.name}"
    output = {"output_type": "stream", "name": "stdout", "text": text}
    cell = {**FIRST["cells"][1], "outputs": [output]}
    result = normalised({**FIRST, "cells": [cell]}, ROOT)["cells"][0]["outputs"][0]["text"]
    assert result.startswith(f"./x {ROOT}s/x ")
    assert str(sys.prefix) not in result or sys.prefix == sys.base_prefix
