"""The whole method in one function: what a density permits one to say, in the order of asking.

    a Hessian? -> mainly positive? -> quasi-singular? -> the criteria, with error bars -> a verdict

The definitions of the types are this book's own (see `hesd_type`). Gabdullin (2025) forbids the
criteria under mainly negative spectra; that they are read under mainly positive ones alone, and not
where the type is undetermined, is this book's caution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lla_helpers.density import SpectralDensity
from lla_helpers.hesd import Criteria, Estimate, HesdType, criteria, hesd_type


@dataclass(frozen=True)
class Assessment:
    """What `assess` found, its str() one sentence a line.

    valid: the operator is a symmetric matrix with a spectrum, or nobody looked. applicable: whether
    the criteria may be compared with those of other models; only under "MP". curvature: whether
    large and small eigenvalues may be read as steep and flat directions without a second look; not
    for an invalid or a quasi-singular spectrum. sentences: one for each step. verdict: the last.
    """

    valid: bool
    type: HesdType
    applicable: bool
    curvature: bool
    criteria: Criteria
    sentences: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return self.sentences[-1]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def assess(density: SpectralDensity, *, classes: int = 10, n: float = 0.5) -> Assessment:
    """Walk a density through the method: valid, type, singular, applicable, criteria, verdict.

    classes: the number of classes, below which the effective rank makes a spectrum quasi-singular.
    n: the power in K_Hn. The verdict never says that a model generalises: r_e and K_Hn have no
    threshold, they rank models that were measured alike.

    Raises ValueError for n that is not positive or fewer than one class.
    """
    if classes < 1:
        raise ValueError(f"classes is the number of classes, at least 1, not {classes!r}")
    c = criteria(density, n)
    kind = hesd_type(c, classes=classes)
    said = [measured_how(c)]
    faults = c.validity.faults() if c.validity is not None else ()
    if faults or not math.isfinite(c.negative_share.value):
        said.append("Invalid: " + "; ".join(faults or kind.reasons) + ".")
        said.append("Verdict: nothing may be read from this spectrum; mend the operator first.")
        return Assessment(False, kind, False, False, c, tuple(said))
    looked = "nobody looked whether the operator is symmetric and linear"
    said.append(f"Valid, though {looked}." if c.validity is None else "Valid: symmetric, linear.")
    said.append(type_in_words(kind, c.negative_share))
    said.append(curvature_in_words(kind, c, classes))
    applicable = kind.label == "MP"
    said.append(
        f"Criteria: r_e = {c.r_e}, K_H{n:g} = {c.k_hn}, lambda_max = {c.lambda_max}, "
        f"trace = {c.trace}."
        if applicable
        else "The criteria are not shown: they are read under mainly positive spectra alone."
    )
    said.append(
        f"Verdict: r_e and K_H{n:g} may be compared with models measured with the same data, "
        "steps and probes; a difference counts beyond two standard errors, of probes and of "
        "samples together. Alone they say nothing about generalisation."
        if applicable
        else f"Verdict: not applicable; {advice(kind, c.negative_share)}."
    )
    return Assessment(True, kind, applicable, not kind.quasi_singular, c, tuple(said))


def measured_how(c: Criteria) -> str:
    steps = "" if c.steps is None else f", {c.steps} Lanczos steps each"
    return f"Estimate: {c.probes} probe{'s' * (c.probes != 1)}{steps}, P = {c.dim}."


def type_in_words(kind: HesdType, share: Estimate) -> str:
    names = {"MP": "mainly positive", "MN": "mainly negative", "undetermined": "undetermined"}
    return f"Type: {names[kind.label]}; {kind.reasons[0]}."


def curvature_in_words(kind: HesdType, c: Criteria, classes: int) -> str:
    rank = f"effective rank {c.effective_rank.value:.3g}"
    if kind.quasi_singular:
        return (
            f"Quasi-singular: {rank}, below {classes} classes: few directions hold the curvature. "
            "Before a small eigenvalue is read as flat, look at the loss at a finite distance."
        )
    return f"Not quasi-singular: {rank}, at least {classes} classes."


def advice(kind: HesdType, share: Estimate, low: float = 0.25, high: float = 0.5) -> str:
    """What to do about a spectrum that is not mainly positive."""
    if kind.label == "MN":
        return (
            "the trace is negative; look for misfit (labels, another data set, ascent), batch norm "
            "in train mode, or gradients that were tampered with"
        )
    if math.isnan(share.stderr):
        return "take at least two probes, better four"
    reach = 2 * share.stderr
    if share.value - reach < low or share.value + reach > high:
        return "the error bar reaches a threshold: more probes may decide"
    return "the spectrum lies between the types, and more probes will not change that"
