"""The report on one model as JSON: it travels in the notebook, and `run` writes it beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields

from lla_helpers.hesd import Criteria, Estimate, HesdType

MIME = "application/vnd.lla.report+json"

NUMBER = {"type": ["number", "null"]}
ESTIMATE = {
    "type": "object",
    "description": "a value and its standard error over probes; null where it is not finite",
    "properties": {"value": NUMBER, "stderr": NUMBER},
    "required": ["value", "stderr"],
}
PART = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "samples": {"type": "integer"},
        "loss": NUMBER,
        "accuracy": NUMBER,
        "type": {"enum": ["MP", "MN", "undetermined"]},
        "quasi_singular": {"type": "boolean"},
        "reasons": {"type": "array", "items": {"type": "string"}},
        "applicable": {"type": "boolean", "description": "may the criteria be used?"},
        "criteria": {"type": "object", "additionalProperties": ESTIMATE},
    },
    "required": ["name", "samples", "loss", "type", "reasons", "applicable", "criteria"],
}
LAYER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "parameters": {"type": "integer"},
        "lambda_max": NUMBER,
        "trace": ESTIMATE,
    },
    "required": ["name", "parameters", "lambda_max", "trace"],
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Report on the Hessian spectrum of one model",
    "type": "object",
    "properties": {
        "schema": {"const": 1},
        "model": {"type": "object", "description": "name, parameters P, weights"},
        "settings": {
            "type": "object",
            "description": "data, loss, samples, mode, params, steps, probes, seed, device",
        },
        "parts": {
            "type": "array",
            "description": "training and test part: loss, accuracy, type, criteria",
            "items": PART,
            "minItems": 1,
        },
        "outliers": {
            "type": "array",
            "description": "the largest eigenvalues on the training part",
            "items": {"type": "number"},
        },
        "layers": {
            "type": "array",
            "description": "the largest layers: parameters, largest eigenvalue, trace",
            "items": LAYER,
        },
        "subsets": {"type": "object", "description": "criteria from quarters of the samples"},
        "cost": {"type": "object", "description": "Hessian-vector products and seconds"},
        "arranged": {
            "type": "array",
            "description": "what stood in for operations without a second derivative; tied weights",
            "items": {"type": "string"},
        },
        "notes": {
            "type": "array",
            "description": "hooks and custom functions in the model; eigenpairs not converged",
            "items": {"type": "string"},
        },
    },
    "required": ["schema", "model", "settings", "parts", "layers", "cost", "notes"],
}


class Report(dict):
    """A report that a notebook displays as nothing, and keeps as a JSON output."""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        data = finite({"schema": 1, **self})
        json.dumps(data, allow_nan=False)  # anything that is no JSON is refused here, by name
        return {MIME: data, "text/plain": f"report on {self['model']['name']}"}


def finite(data):
    """The same with plain numbers, and None for what is not finite: JSON has no word for it."""
    if isinstance(data, Estimate):
        return {"value": finite(data.value), "stderr": finite(data.stderr)}
    if isinstance(data, Mapping):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(item) for item in data]
    if hasattr(data, "item"):
        data = data.item()
    return None if isinstance(data, float) and not math.isfinite(data) else data


def estimates(c: Criteria) -> dict[str, Estimate]:
    """The criteria by name, an Estimate each."""
    named = ((field.name, getattr(c, field.name)) for field in fields(c))
    return {name: value for name, value in named if isinstance(value, Estimate)}


def criteria_json(c: Criteria) -> str:
    """The criteria as a JSON object: name -> value and standard error; steps, probes and dim."""
    counts = {"steps": c.steps, "probes": c.probes, "dim": c.dim}
    return json.dumps(finite({**estimates(c), **counts}), indent=1, allow_nan=False) + "\n"


def part_of_report(
    name: str,
    samples: int,
    loss: float,
    accuracy: float,
    c: Criteria,
    t: HesdType,
    applicable: bool,
) -> dict:
    """One part of the data in the report, as SCHEMA says."""
    return {
        "name": name,
        "samples": samples,
        "loss": loss,
        "accuracy": accuracy,
        "type": t.label,
        "quasi_singular": t.quasi_singular,
        "reasons": list(t.reasons),
        "applicable": applicable,
        "criteria": estimates(c),
    }
