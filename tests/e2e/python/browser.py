# SPDX-License-Identifier: Apache-2.0 OR MIT
"""A page as a phone shows it, in a real browser without a window (W3C WebDriver).

    browser.py CHROMEDRIVER CHROMIUM PAGE FOLDER

Says what was seen, a line of JSON for each width.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

SEEN = """
const all = [...document.body.querySelectorAll('*')];
const shown = all.filter(e => e.getClientRects().length);
const own = shown.filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
const size = e => parseFloat(getComputedStyle(e).fontSize);
return {
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  beyond: shown.filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName),
  smallest: Math.min(...own.map(size)),
  narrowest: Math.min(...own.map(e => e.getBoundingClientRect().width)),
  loaded: performance.getEntriesByType('resource').map(e => e.name),
  obeyed: typeof window.hacked !== 'undefined' || document.scripts.length > 0,
  text: document.body.innerText,
  title: document.title,
};
"""
FOLD = """
const summary = document.querySelector('details > summary');
const height = () => document.body.scrollHeight;
const before = height();
summary.click();
return [before, height()];
"""


def call(base, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


def started(driver, folder):
    """The driver, and where it listens: it picks the port itself and says so."""
    process = subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, text=True, env={"HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin"}
    )
    for line in process.stdout:
        words = line.split()
        if "port" in words and line.startswith("ChromeDriver was started"):
            return process, f"http://127.0.0.1:{words[words.index('port') + 1].rstrip('.')}"
    raise RuntimeError("the driver did not start")


def main(driver, chromium, page, folder):
    process, base = started(driver, folder)
    try:
        for width in (390, 320):
            options = {
                "binary": chromium,
                "args": [
                    "--headless",
                    # The driver is not root, and nothing is loaded but the page.
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--disable-dev-shm-usage",
                    "--no-first-run",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    f"--user-data-dir={tempfile.mkdtemp(dir=folder)}",
                ],
                "mobileEmulation": {"deviceMetrics": {"width": width, "height": 844, "pixelRatio": 3.0}},
            }
            wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
            session = f"/session/{call(base, 'POST', '/session', wanted)['sessionId']}"
            try:
                call(base, "POST", f"{session}/url", {"url": pathlib.Path(page).as_uri()})
                run = lambda script: call(base, "POST", f"{session}/execute/sync", {"script": script, "args": []})  # noqa: E731
                seen = run(SEEN)
                seen["folds"] = run(FOLD)
                print(json.dumps(seen), flush=True)
            finally:
                call(base, "DELETE", session)
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main(*sys.argv[1:])
