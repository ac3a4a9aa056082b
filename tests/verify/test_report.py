"""Rows pass on the right side of their limit only, and the table names the worst and what failed."""

import numpy as np

from diffusion_jax.verify.report import Row, format_table


def test_a_row_is_passed_on_the_right_side_of_its_limit_only():
    assert Row("c", "", 1.0, 1.0).passed
    assert not Row("c", "", 1.1, 1.0).passed
    assert not Row("c", "", np.nan, 1.0).passed
    assert Row("c", "", 1.1, 1.0, at_least=True).passed
    assert not Row("c", "", 0.9, 1.0, at_least=True).passed
    assert not Row("c", "", np.inf, 1.0, at_least=True).passed
    assert Row("c", "", -2.0, -1.0).passed
    assert not Row("c", "", 0.0, -1.0).passed
    assert Row("c", "", 0.0, 0.0).passed


def test_the_table_names_the_worst_and_what_failed():
    rows = [
        Row("order", "cosine", 1.9, 1.7, at_least=True, subject="Heun()"),
        Row("order", "karras", 1.2, 1.7, at_least=True, subject="Heun()"),
        Row("slerp", "weight 1", 0.0, 0.0),
    ]
    text = format_table(rows)
    assert "1.20 !" in text
    assert "FAIL" in text
    assert "FAILED order: Heun(), karras: 1.20, must be >= 1.70" in text
    assert text.endswith("3 cases, 1 failed")
    assert format_table(rows[2:]).endswith("1 cases, all pass")
    many = format_table([rows[1]] * 23)
    assert many.count("FAILED order") == 20
    assert "and 3 more that FAILED; --full prints all" in many
