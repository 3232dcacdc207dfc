"""Numbers that a run hands to the prose arrive there as numbers."""

import re

# What `glue` makes of text that Python could read as something else: "2,000" as (2, 0), 'text'.
MANGLED = re.compile(r"^\(.*\)$|^[\'\"]|\\x|object at 0x|\bnan\b")


def test_glued_numbers_are_not_mangled(opened, name):
    glued = opened(name).page.locator("span.pasted-text").all_inner_texts()
    assert [text for text in glued if not text.strip() or MANGLED.search(text)] == []
