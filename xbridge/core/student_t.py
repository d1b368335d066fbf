"""Student's t distribution, in plain Python: two-sided p-values and the quantile of a 95 % interval."""

import math

NORMAL_975 = 1.959963984540054


def t_two_sided(t: float, degrees: float) -> float:
    """P(|T| >= t) for Student's t, t >= 0: the regularised incomplete beta function I_x(degrees / 2, 1 / 2).

    x = degrees / (degrees + t^2). Abramowitz and Stegun (1964), 26.7.1 and 26.5.2.
    """
    if degrees > 1e5:
        return math.erfc(t / math.sqrt(2))
    a, b, x, rest = degrees / 2, 0.5, degrees / (degrees + t * t), t * t / (degrees + t * t)
    if rest == 0:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front + a * math.log(x) + b * math.log(rest))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, rest) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, 10_000):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + factor * d), 1 + factor / c
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return result


def t_quantile_975(degrees: float) -> float:
    """The 97.5th percentile of Student's t, `degrees` >= 1; 1.96 for many."""
    low, high = NORMAL_975 - 1e-9, 13.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, degrees) > 0.05 else (low, middle)
    return (low + high) / 2
