"""The report: one self-contained page, the same as Markdown, every figure as SVG and every number as CSV."""
