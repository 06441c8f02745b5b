"""Links that leave docs/, as they read in the repository, lead to pages of the site: README, examples, source files.

README.md becomes the first page. Of a program the site has its text, of a folder the names in it, of other files a copy.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()([\w.][^):#\s]*)(?=[)#])")
SHOWN = {".py": "python", ".toml": "toml", ".jinja": "text"}
FIRST_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
_made: dict[str, str] = {}  # pages of the site that are no files of docs/: their path there, and in the repository


def _uri(path: str) -> str:
    """Where the file or folder ``path`` of the repository stands in the site's sources."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in FIRST_PAGES:
        return "index.md" if path == "README.md" else path.lower()
    source = ROOT / path
    return f"source/{path}" + (".md" if source.is_dir() or source.suffix in SHOWN else "")


def _text(path: str) -> str:
    source = ROOT / path
    if path in FIRST_PAGES:
        return source.read_text(encoding="utf-8")
    if source.is_dir():
        names = sorted(found.relative_to(source).as_posix() for found in source.rglob("*") if found.suffix != ".pyc")
        body = "\n".join(f"- `{name}`" for name in names if (source / name).is_file())
    else:
        body = f"```{SHOWN[source.suffix]}\n{source.read_text(encoding='utf-8')}\n```"
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n{body}\n"


def _targets(text: str, path: str) -> list[str]:
    """The files and folders outside docs/ that the page ``path`` of the repository links to."""
    found = (posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in LINK.findall(text))
    return [target for target in found if not target.startswith(("docs/", "..")) and (ROOT / target).exists()]


def on_files(files: Files, config: Any) -> Files:
    """Called by MkDocs: adds what the pages link to."""
    waiting = list(FIRST_PAGES)
    for page in files.documentation_pages():
        waiting += _targets(page.content_string, f"docs/{page.src_uri}")
    while waiting:
        path = waiting.pop()
        uri = _uri(path)
        if uri in _made or path == "LICENSE":
            continue
        _made[uri] = path
        if uri.endswith(".md"):
            text = _text(path)
            files.append(File.generated(config, uri, content=text))
            waiting += _targets(text, path) if path in FIRST_PAGES else []
        else:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for each page: its links, from places in the repository to places in the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(_made.get(here, f"docs/{here}"))

    def moved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path.startswith("..") or not (ROOT / path).exists():
            return link[1]  # no link but a word of code, or one that MkDocs is to report
        return os.path.relpath(_uri(path), posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)
