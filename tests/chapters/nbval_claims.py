"""A plugin for the nbval run: the claims of every cell, which nbval's own comparison ignores."""

import pytest

from lla_helpers.claims import MIME
from tests.chapters.agreement import disagreements


def claims_in(outputs) -> list[dict]:
    return [claim for output in outputs for claim in output.get("data", {}).get(MIME, [])]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    stored = claims_in(getattr(item, "cell", {}).get("outputs", []))
    if stored:
        found = disagreements(stored, claims_in(item.test_outputs or []))
        if found:
            pytest.fail("; ".join(found), pytrace=False)
    return result
