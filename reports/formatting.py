"""Text forms of numbers, cases and conditions in reports."""

from collections.abc import Iterable

from reports.record import CONDITIONS, CaseValue


def number(value: float) -> str:
    """Number with four significant digits, or all before the point, with thousands separators."""
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 999.95 <= abs(value) < 1e12 else f"{value:.4g}"


def label(case: Iterable[tuple[str, CaseValue]]) -> str:
    """Text of a case: ``codec=f16, rate_mbps=10``."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in case)


def value_text(value: CaseValue) -> str:
    """Text of a case value: yes and no for booleans, no thousands separators."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def escape(text: str) -> str:
    """Escape ``text`` for Markdown, also in a table cell."""
    plain = " ".join(text.split())
    return "".join(f"\\{char}" if char in "\\|`*<>[]$" else char for char in plain)


USUAL = (("precision", "float32"), ("set", ""))  # of nearly all records


def conditions_text(conditions: Iterable[str]) -> str:
    """Text of values of ``CONDITIONS``: ``mode live, scale laptop, …``; usual ones are left out."""
    named = zip(CONDITIONS, conditions, strict=True)
    return ", ".join(f"{name} {value}" for name, value in named if (name, value) not in USUAL)
