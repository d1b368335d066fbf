"""Colours, markers and dashes: colour-blind safe (Okabe and Ito 2008), one per arm in every figure, in both themes.

A figure is drawn with placeholder colours; `svg` turns each into a CSS variable whose fallback is the light theme's
colour, so one drawing serves light pages, dark pages and print.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# token: (placeholder that matplotlib draws with, light theme, dark theme)
TOKENS = {
    "ink": ("#010203", "#1c1c1a", "#e8e6e1"),
    "muted": ("#010204", "#5f5e5a", "#a3a19b"),
    "rule": ("#010205", "#dcdad4", "#3b3a37"),
    "paper": ("#010206", "#ffffff", "#191918"),
    "gray": ("#010207", "#8c8a84", "#96948e"),
    "blue": ("#010208", "#0072b2", "#4aa8e0"),
    "orange": ("#010209", "#d18f00", "#e69f00"),
    "vermilion": ("#01020a", "#d55e00", "#f07a2a"),
    "green": ("#01020b", "#009e73", "#22b98c"),
    "purple": ("#01020c", "#bb6596", "#d98fb5"),
    "sky": ("#01020d", "#3f9fd2", "#7cc6ee"),
    "olive": ("#01020e", "#a39a00", "#f0e442"),
}

ORDER = ("random", "base", "denoise", "mt_shuffled", "mt")
"""Arms that every study of the default design has, in the order in which they are shown."""

_KNOWN = {
    "random": ("gray", "x", ":"),
    "base": ("ink", "s", "-."),
    "denoise": ("blue", "o", "-"),
    "mt_shuffled": ("orange", "D", "--"),
    "mt": ("vermilion", "^", "-"),
}
_OTHERS = (
    ("green", "v", "-"),
    ("purple", "P", "--"),
    ("sky", "<", "-."),
    ("olive", ">", ":"),
    ("green", "p", "--"),
    ("purple", "*", "-"),
    ("sky", "h", "-"),
    ("olive", "d", "--"),
)


@dataclass(frozen=True)
class Style:
    """How an arm is drawn: a colour token, a marker and a dash, so that no arm is told by colour alone."""

    token: str
    marker: str
    dash: str

    @property
    def color(self) -> str:
        """The placeholder that matplotlib draws with."""
        return TOKENS[self.token][0]


def color(token: str) -> str:
    """The placeholder of a token."""
    return TOKENS[token][0]


def ordered(arms: Sequence[str]) -> list[str]:
    """Known arms in their fixed order, then the others in the order given."""
    given = list(dict.fromkeys(arms))
    return [arm for arm in ORDER if arm in given] + [arm for arm in given if arm not in ORDER]


def styles(arms: Sequence[str]) -> dict[str, Style]:
    """The style of each arm of the study. Give all arms of the study, so that an arm looks the same everywhere."""
    found: dict[str, Style] = {}
    others = 0
    for arm in ordered(arms):
        if arm in _KNOWN:
            found[arm] = Style(*_KNOWN[arm])
        else:
            found[arm] = Style(*_OTHERS[others % len(_OTHERS)])
            others += 1
    return found
