"""Strings are numbered as a dictionary would number them."""

from hypothesis import given
from hypothesis import strategies as st

from xbridge.data.numbering import Block, number_strings

ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from("xyzuv")), max_size=30)


@given(st.lists(ROWS, max_size=4))
def test_strings_are_numbered_in_the_order_in_which_they_first_occur(parts):
    blocks = [
        Block("bitext", [(g,) for g, _, _ in rows], {"source": [s.encode() for _, s, _ in rows],
                                                     "target": [t.encode() for _, _, t in rows]})
        for rows in parts
    ]  # fmt: skip
    numbering = number_strings(blocks)
    occurrences = [string for block in blocks for string in block.strings()]
    number = {string: index for index, string in enumerate(dict.fromkeys(occurrences))}
    assert numbering.num_strings == len(number)
    assert [s for s, first in zip(occurrences, numbering.is_first, strict=True) if first] == list(number)
    if not blocks:
        return
    table = numbering.tables["bitext"]
    rows = [row for part in parts for row in part]
    assert table.groups == list(dict.fromkeys((g,) for g, _, _ in rows))
    for index, (group,) in enumerate(table.groups):
        here = slice(int(table.edges[index]), int(table.edges[index + 1]))
        for place, column in ((1, "source"), (2, "target")):
            expected = [number[row[place].encode()] for row in rows if row[0] == group]
            assert table.columns[column][here].tolist() == expected
