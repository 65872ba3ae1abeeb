"""For MkDocs: a link from a page to a file beside docs/ becomes the file's path, which the site cannot show; one to a
file that does not exist stays, and fails the strict build."""

import pathlib
import posixpath
import re

def on_page_markdown(markdown, page, config, **_):
    docs = pathlib.Path(config.docs_dir)
    folder = posixpath.dirname(page.file.src_uri)

    def plain(link):
        path = posixpath.normpath(posixpath.join(folder, link[2].split("#")[0]))
        outside = path.startswith("../") or path.startswith("catalogs/")
        return f"{link[1]} (`{posixpath.normpath('docs/' + path)}`)" if outside and (docs / path).exists() else link[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\(((?!\w+:|#)[^)\s]+)\)", plain, markdown)
