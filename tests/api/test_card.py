"""Model cards and the tables of all pages."""

import pytest

from echox.api.card import markdown_table


def test_a_table_has_as_many_cells_in_each_row_as_in_its_head():
    assert markdown_table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]
    for row in (["1"], ["1", "2", "3"]):
        with pytest.raises(ValueError, match="expected rows of 2 cells"):
            markdown_table(["a", "b"], [row])
