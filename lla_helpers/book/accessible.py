"""What the tools' HTML gets wrong for readers without eyes or mouse, mended page by page."""

from __future__ import annotations

from pathlib import Path

# Each: what stands in the page, what must stand there. A name that differs from the words on a
# button fails those who speak it (WCAG 2.5.3); the two roles belong to ARIA's past, or to lists
# that hold nothing but items.
MENDED = (
    ('<summary aria-label="Toggle hidden content">', "<summary>"),
    (' title="Search" aria-label="Search" data-bs-placement', " data-bs-placement"),
    (' role="doc-biblioentry"', ""),
    (' role="list" class="citation-list"', ' class="citation-list"'),
)


def mend(folder: Path) -> None:
    """Rewrite every page in a folder of built pages."""
    for path in sorted(folder.rglob("*.html")):
        old = new = path.read_text(encoding="utf-8")
        for wrong, right in MENDED:
            new = new.replace(wrong, right)
        if new != old:
            path.write_text(new, encoding="utf-8")
