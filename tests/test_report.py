"""The report for machines fits its schema, whatever is not finite in it."""

from __future__ import annotations

import json
import math

import jsonschema
import numpy as np
import pytest

from lla_helpers import SpectralDensity, criteria, hesd_type
from lla_helpers.hesd import Estimate
from lla_helpers.report import MIME, SCHEMA, Report, criteria_json, finite, part_of_report


def report(**more):
    c = criteria(SpectralDensity([[-1.0, 2.0], [-1.0, 3.0]], [[0.5, 0.5], [0.5, 0.5]], dim=9))
    part = part_of_report("test", np.int64(5), 0.5, math.nan, c, hesd_type(c), False)
    layer = {"name": "0", "parameters": 3, "lambda_max": 1.0, "trace": Estimate(1.0, math.nan)}
    rest = {"settings": {}, "outliers": [], "cost": {}, "notes": []}
    return Report(model={"name": "m"}, parts=[part], layers=[layer], **rest, **more)


def test_a_report_fits_its_schema_and_is_strict_json():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    bundle = report()._repr_mimebundle_()
    data = json.loads(json.dumps(bundle[MIME], allow_nan=False))
    jsonschema.validate(data, SCHEMA)
    assert data["parts"][0]["accuracy"] is None
    assert data["layers"][0]["trace"] == {"value": 1.0, "stderr": None}
    assert bundle["text/plain"] == "report on m"
    broken = {**data, "parts": [{"name": "test"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_what_is_no_json_is_refused():
    with pytest.raises(TypeError, match="not JSON serializable"):
        report(extra=object())._repr_mimebundle_()
    assert finite({1: [np.float32(2.0), -math.inf]}) == {"1": [2.0, None]}


def test_criteria_as_json():
    c = criteria(SpectralDensity([[-1.0, 2.0], [-1.0, 4.0]], [[0.5, 0.5], [0.5, 0.5]], dim=9))
    data = json.loads(criteria_json(c))
    assert data["r_e"] == {"value": 0.375, "stderr": 0.125}
    assert (data["dim"], data["probes"], data["steps"]) == (9, 2, None)
    alone = json.loads(criteria_json(criteria(SpectralDensity([[1.0]], [[1.0]], dim=1))))
    assert alone["trace"] == {"value": 1.0, "stderr": None}
