"""An animation as a page needs it: offline, described in words, every control on the keyboard."""

from __future__ import annotations

import re

# Matplotlib's controls are icons of a font that comes from the network.
ICONS = {
    "fa-minus": "−",
    "fa-fast-backward": "|◀",
    "fa-step-backward": "◀|",
    "fa-play fa-flip-horizontal": "◀",
    "fa-pause": "❚❚",
    "fa-play": "▶",
    "fa-step-forward": "|▶",
    "fa-fast-forward": "▶|",
    "fa-plus": "+",
}


def slider(animation, name: str, alt: str, *, label: str = "frame", fps: float = 2.0):
    """A matplotlib animation with a slider and buttons, as HTML for a notebook.

    name: an identifier, unique on the page; matplotlib's own is drawn anew in every run. alt: what
    there is to see, for those who do not see it. label: what the slider moves through.

    Raises ValueError for a name that is no identifier, or an empty alt.
    """
    from IPython.display import HTML

    if not name.isidentifier():
        raise ValueError(f"name must be an identifier, such as 'density', not {name!r}")
    if not alt.strip():
        raise ValueError("alt must say what there is to see")
    text = animation.to_jshtml(fps=fps, default_mode="once")
    text = re.sub(r"<link[^>]*font-awesome[^>]*>", "", text)
    text = re.sub(r"(?<=anim)[0-9a-f]{32}|(?<=_)[0-9a-f]{32}|(?<=[a-z])[0-9a-f]{32}", name, text)
    for icon, sign in ICONS.items():
        text = text.replace(f'<i class="fa {icon}"></i>', f'<span aria-hidden="true">{sign}</span>')
    quoted = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    text = text.replace("<img id=", f'<img alt="{quoted}" id=', 1)
    text = text.replace('type="range"', f'type="range" aria-label="{label}"', 1)
    return HTML(text)
