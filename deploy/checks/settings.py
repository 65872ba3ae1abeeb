"""docs/settings.md, made from what `fanfare-ingest --help` says. `python settings.py` writes it anew."""

import os
import re
import subprocess

from chart import ROOT

BINARIES = ROOT / os.environ.get("FANFARE_BINARIES", os.environ.get("CARGO_TARGET_DIR", "target") + "/debug")
PAGE = ROOT / "docs/settings.md"
HEAD = """# Settings

<!-- Made from `--help` by deploy/checks/settings.py: `make docs-settings`. -->

Settings come from the environment (`FANFARE_<SECTION>__<KEY>`), over the TOML file that `FANFARE_CONFIG` names, over
defaults. In the chart they stand under `settings`, by section: `FANFARE_DISPATCHER__MAX_IN_FLIGHT` is
`settings.dispatcher.max_in_flight`. Durations are texts (`"15s"`, `"7d"`), lists are comma-separated in the environment.
Only variables with `__` are read. Any binary says this with `--help`, and checks what it was given with `--check-config`.
A bad setting stops the start and is named.

The chart sets some of them itself and refuses them in `settings`: the ports, `shutdown.grace` (value
`shutdown.graceSeconds`), `targets.allow_networks` (value `allowNetworks`), `catalogs.path` (value `catalogs`). Secrets come
from a Secret ([security](security.md)).
"""


def page() -> str:
    """The page's text."""
    said = subprocess.run([BINARIES / "fanfare-ingest", "--help"], capture_output=True, text=True, check=True).stdout
    text, section = HEAD, None
    for name, what in re.findall(r"^  (FANFARE_\S+)\n((?:      .*\n)+)", said, re.M):
        this = name.removeprefix("FANFARE_").split("__")[0].lower()
        if this != section:
            text += f"\n## {this}\n\n| setting | | default |\n|---|---|---|\n"
            section = this
        what = " ".join(what.split()).replace("|", "\\|")
        what, _, default = what.rpartition(" Default: ")
        text += f"| `{name}` | {what} | {default.removesuffix('.')} |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
    print("wrote", PAGE.relative_to(ROOT))
