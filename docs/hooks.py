"""Hooks of mkdocs: generated pages, notebooks as pages, formulas as MathML. Nothing here needs the network."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from generate_reference import ROOT, pages

REPOSITORY = "https://github.com/emim-project/emim/blob/main/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    made = {
        **pages(),
        "project/changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "project/contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        "reference/measurements.md": (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"),
    }
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "reference/scaling.png", abs_src_path=str(ROOT / "benchmarks" / "scaling.png")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at where their targets are on the site: in the repository some lie elsewhere or are notebooks."""
    if page.file.src_uri.startswith("project/") or page.file.src_uri == "reference/measurements.md":
        markdown = re.sub(r"\]\((?:\.\./)?docs/([^)]+)\)", r"](../\1)", markdown)
    if not page.file.src_uri.startswith("notebooks/"):
        markdown = _to_pages(markdown)
    return markdown


def _to_pages(markdown: str) -> str:
    return re.sub(r"\]\(([^):]+)\.ipynb\)", r"](\1.md)", markdown)


_FORMULA = re.compile(r'<(?P<tag>div|span) class="arithmatex">\\(?:\[|\()(?P<tex>.*?)\\(?:\]|\))</(?P=tag)>', re.DOTALL)


def on_page_content(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML, which browsers draw without a script."""

    def formula(match: re.Match[str]) -> str:
        tag = match["tag"]
        mathml = convert(html.unescape(match["tex"]).strip(), display="block" if tag == "div" else "inline")
        return f'<{tag} class="formula">{mathml}</{tag}>'

    return _FORMULA.sub(formula, text)


def notebook_page(path: Path) -> str:
    """A notebook with the outputs stored in it, as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_to_pages(source))
            if source.startswith("# "):
                parts.append(
                    f"*This page is a notebook: [{path.name}]({path.name}). Its outputs are stored as they came.*"
                )
        elif source.strip():
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output) for output in _joined(cell["outputs"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs with printed text that came in pieces put together."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and joined and joined[-1].get("name") == output["name"]:
            joined[-1] = {**output, "text": [*joined[-1]["text"], *output["text"]]}
        else:
            joined.append(output)
    return joined


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _as_text("".join(output["text"])) if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'
    if "image/png" in data:
        source = f"data:image/png;base64,{data['image/png'].strip()}"
        return f'<div class="output"><img alt="output of the cell above" src="{source}"></div>'
    return _as_text("".join(data.get("text/plain", [])))


def _as_text(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
