"""For MkDocs: a link from a page to a file beside docs/ becomes the file's path, which the site cannot show; one to a
file that does not exist stays, and fails the strict build. Pages that others bring join the navigation when present."""

import pathlib
import posixpath
import re

LATER = {"Run": ["alerts.md", "dashboards.md"], "Products": ["catalogs.md"]}


def on_config(config):
    docs = pathlib.Path(config.docs_dir)
    for section, pages in LATER.items():
        here = [page for page in pages if (docs / page).is_file()]
        found = next((each[section] for each in config.nav if isinstance(each, dict) and section in each), None)
        if found is not None:
            found[1:1] = here
        elif here:
            config.nav.append({section: here})
    return config


def on_page_markdown(markdown, page, config, **_):
    docs = pathlib.Path(config.docs_dir)
    folder = posixpath.dirname(page.file.src_uri)

    def plain(link):
        path = posixpath.normpath(posixpath.join(folder, link[2].split("#")[0]))
        outside = path.startswith("../") or path.startswith("catalogs/")
        return f"{link[1]} (`{posixpath.normpath('docs/' + path)}`)" if outside and (docs / path).exists() else link[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\(((?!\w+:|#)[^)\s]+)\)", plain, markdown)
