"""What mkdocs does besides: notebooks as pages, methods in the navigation, links out of docs as code names."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

try:
    from scripts.docs_text import as_markdown, named
except ModuleNotFoundError:  # mkdocs loads a hook by its path; its folder is then the one on the path
    from docs_text import as_markdown, named


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every method's page goes into the navigation, by family, as the page maker left them."""
    families = json.loads((Path(config.docs_dir) / "methods" / "families.json").read_text(encoding="utf-8"))
    entries = [{family: [f"methods/{name}.md" for name in names]} for family, names in families.items()]
    methods: list[Any] = next(section["Methods"] for section in config.nav or [] if "Methods" in section)
    methods.extend(entries)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every notebook becomes a page beside it, with its images; the notebook itself can be downloaded."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        stem = notebook.src_uri.removesuffix(".ipynb")
        text, images = as_markdown(json.loads(notebook.content_string), posixpath.basename(stem))
        files.append(File.generated(config, f"{stem}.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, posixpath.join(posixpath.dirname(stem), name), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page without links that leave the docs."""
    return named(markdown, posixpath.dirname(page.file.src_uri))
