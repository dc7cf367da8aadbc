"""Executed notebooks as HTML pages that need neither a kernel nor a network."""

import os
import re
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

WIDGET = "application/vnd.jupyter.widget-view+json"
PANEL = "<p><em>This panel needs a running notebook; the pictures on this page show what it draws.</em></p>"
# nbconvert's page without the scripts that it would fetch from the network; printed lines break between words
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_css %}<style>.jp-OutputArea-output pre { word-break: normal }</style>{% endblock %}
"""
INJECTED = "injected-parameters"  # papermill's tag of the cell that overrides the parameters
CHAPTER_LINK = re.compile(r"(\]\(\d\d_\w+)\.ipynb")  # in Markdown, to a notebook in the same folder
DOCS_LINK = re.compile(r"\]\(\.\./docs/")  # to the documentation beside the notebooks


class FormulaRenderer(IPythonRenderer):
    """Renders LaTeX as MathML, which browsers show without MathJax."""

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline") or super().inline_math(body)

    def block_math(self, body: str) -> str:
        return _mathml(body.replace(r"\tag", r"\qquad\tag"), "block") or super().block_math(body)

    def block_html(self, html: str) -> str:
        """HTML as it is: embedding images closes open elements, and ``<details>`` before its content."""
        return super().block_html(html) if "<img" in html else html


def _mathml(formula: str, display: str) -> str:
    """LaTeX as MathML; empty where it cannot be parsed."""
    try:
        return convert(formula, display=display)
    except Exception:  # the library's errors have no other base; a page is worth more than a formula
        return ""


class PageExporter(HTMLExporter):
    """nbconvert's exporter with these formulas."""

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """HTML of a Markdown cell."""
        renderer = FormulaRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=self.embed_images,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
            exclude_anchor_links=self.exclude_anchor_links,
            **self.lexer_options,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def to_html(notebook: nbformat.NotebookNode, folder: Path) -> str:
    """The page of an executed notebook, whose cells are changed: panels become a line of text, links to
    chapters links to pages, and of two cells of parameters the one that was executed last stays.

    Links to the documentation lead there from ``folder``, where the page is written.
    """
    docs = Path(os.path.relpath("docs", folder)).as_posix()
    notebook.metadata.pop("widgets", None)  # a page has no kernel to answer them
    tags = [set(cell.metadata.get("tags", [])) for cell in notebook.cells]
    if any(INJECTED in of_cell for of_cell in tags):
        kept = zip(notebook.cells, tags, strict=True)
        notebook.cells = [cell for cell, of_cell in kept if "parameters" not in of_cell]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = DOCS_LINK.sub(f"]({docs}/", CHAPTER_LINK.sub(r"\1.html", cell.source))
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output["data"] = {"text/html": PANEL}
    html, _ = PageExporter(embed_images=True, raw_template=TEMPLATE).from_notebook_node(notebook)
    return html
