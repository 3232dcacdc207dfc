"""Buttons that open a chapter elsewhere: there once `_config.yml` says where the repository is."""

from __future__ import annotations

from pathlib import Path

import yaml

from lla_helpers.book.errors import BadInput

FORM = "https://github.com/OWNER/NAME"


def settle(config: Path) -> None:
    """Take the launch buttons out of a staged `_config.yml` that names no repository.

    Without an address there is nothing to launch, and the theme stops with a traceback. Raises
    BadInput for an address that is not one of GitHub's, which Colab could not open.
    """
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    url = (settings.get("repository") or {}).get("url") or ""
    parts = url.removeprefix("https://github.com/").rstrip("/").split("/")
    if not url and settings.pop("launch_buttons", None):
        config.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    if url and (url == parts[0] or len(parts) != 2 or not all(parts)):
        raise BadInput(f"_config.yml: repository url {url!r} is not of the form {FORM}")
