"""Time limits of cases: what counts as time, and what ends a case that takes more."""
