"""The console: its doors over HTTP, and the page in a real browser. SIGHT_PICTURES=DIR keeps screenshots there, SIGHT_HISTORY_S seconds later."""
import json
import os
import time
import unittest

import chromium
from sight_case import Case, main

HOSTILE = "<script>window.broken=1</script>\"\\??"


class Doors(Case):
    def api(self, path, **more):
        return self.get(path, self.console, **{"Authorization": "Bearer " + self.token, **more})

    def test_without_or_with_a_wrong_token(self):
        for path in ("/api/v1/state", "/api/v1/history"):
            self.assertEqual(self.get(path, self.console)[0], 401)
            self.assertEqual(self.get(path, self.console, Authorization="Bearer " + "0" * 32)[0], 401)
            self.assertEqual(self.get(path, self.console, Authorization="Bearer " + self.token[:-1])[0], 401)
            self.assertEqual(self.get(path, self.console, Authorization="Basic " + self.token)[0], 401)
            self.assertEqual(self.get(path + "?token=" + self.token, self.console)[0], 401)  # not in addresses
            self.assertEqual(self.api(path)[0], 200)

    def test_rebinding(self):
        for path in ("/", "/console.js", "/api/v1/state"):
            for host in ("evil.example", "evil.example:%d" % self.console, "127.0.0.1:1", "127.0.0.1.evil.example:%d" % self.console):
                self.assertEqual(self.api(path, host=host)[0], 421, (path, host))

    def test_reading_only(self):
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            status, headers, _ = self.api("/api/v1/state", method=method)
            self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"))

    def test_policy(self):
        for path in ("/", "/console.css", "/console.js", "/icon.svg", "/api/v1/state", "/nothing"):
            headers = self.api(path)[1]
            csp = headers["Content-Security-Policy"]
            self.assertTrue(csp.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), csp)
            self.assertNotIn("unsafe", csp)
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(headers["Cache-Control"], "no-store")
            self.assertNotIn("Access-Control-Allow-Origin", headers)
        page = self.api("/")[2]
        self.assertNotRegex(page, r"<script>|\son\w+=|style=")

    def test_metrics_are_not_here(self):
        self.assertEqual(self.api("/metrics")[0], 404)

    def test_state(self):
        s = json.loads(self.api("/api/v1/state")[2])
        self.assertEqual((s["schema"], s["up"]), (1, True))
        self.assertEqual(len(s["tenants"]), 8)
        self.assertEqual(s["tenants"][-1]["name"], HOSTILE)
        self.assertEqual([e["id"] for e in s["events"]], list(range(5007, 4999, -1)))
        self.assertIsNone(s["tenants"][-1]["devices"][0]["share_percent"])
        times = {t["name"]: t["devices"][0]["time"] for t in s["tenants"]}
        self.assertIsNone(times["sandbox"])  # no limit
        t = times["training-nightly"]
        self.assertEqual((t["share_percent"], t["ceiling_percent"]), (25, 80))
        self.assertTrue(0 < t["delivered_percent"] <= 80, t)
        self.assertGreater(t["borrowed_ms"], 0)
        self.assertEqual(times["inference-prod"]["borrowed_ms"], 0)
        held = {x["name"]: (x["mode"], x["enforcer"], x["mps_group"], x["mps_state"], x["latency"]) for x in s["tenants"]}
        self.assertEqual(held["inference-prod"], ("auto", "spatial", "prod", "serving", True))
        self.assertEqual(held["training-nightly"], ("auto", "temporal", None, None, False))
        self.assertEqual([d["gate_bound_us"] for d in s["devices"]], [2080, 940])
        self.assertEqual(s["devices"][0]["self_tests"], {"spatial": "works", "partitions": "no", "green": "works", "slice": "unknown"})
        self.assertEqual(s["daemon"]["reap_delay_below_us"], {"p50": 128, "p99": 2048})

    def test_history(self):
        def some():
            h = json.loads(self.api("/api/v1/history")[2])
            mine = [s for s in h["series"] if s["tenant"] == "inference-prod"]
            return h if mine and sum(v is not None for v in mine[0]["used_mib"]) >= 2 else None
        h = self.until(some, "two points of history")
        for s in h["series"]:
            self.assertEqual((len(s["used_mib"]), len(s["percent"])), (h["points"], h["points"]))


class Browser(Case):
    def setUp(self):
        self.tab = chromium.Tab()
        self.addCleanup(self.tab.close)

    def wait(self, expression):
        guarded = "(() => { try { return %s } catch { return false } })()" % expression  # a page may still be loading
        return self.until(lambda: self.tab.run(guarded), expression)


@unittest.skipUnless(chromium.find(), "no Chromium is installed (package chromium)")
class Page(Browser):
    def test_the_page(self):
        tab = self.tab
        tab.look(1280, 900)
        tab.open(self.url)
        self.wait("document.documentElement?.dataset.shown === 'yes'")
        self.assertEqual(tab.run("location.hash"), "")  # the token does not stay in the address
        names = tab.run("[...document.querySelectorAll('#tenants td.who')].map(e => e.firstChild.textContent)")
        self.assertEqual(len(names), 8)
        self.assertIn("inference-prod", names)
        self.assertIn(HOSTILE, names)
        # A tenant's text is text: nothing of it became an element or ran.
        self.assertEqual(tab.run("document.querySelectorAll('main script, main img, main b b').length"), 0)
        self.assertIsNone(tab.run("window.broken"))
        self.assertIn("<img src=x>", tab.run("document.querySelector('#strays').textContent"))
        self.assertEqual(tab.run("document.querySelectorAll('#events li').length"), 8)
        tab.run("document.querySelector('#only-warnings').click()")
        self.assertEqual(tab.run("document.querySelectorAll('#events li').length"), 3)
        tab.run("document.querySelector('#only-warnings').click()")
        tab.run("document.querySelector('th[data-sort=used] button').click()")
        self.assertEqual(tab.run("document.querySelector('#tenants td.who').firstChild.textContent"), "risk-batch")
        self.assertEqual(tab.run("document.querySelector('th[data-sort=used]').ariaSort"), "descending")
        shares = tab.run("[...document.querySelectorAll('#tenants td[data-label=Share]')].map(e => e.textContent)")
        self.assertEqual(sorted(shares)[:4], ["25\u202f%+ to 80\u202f%temporal", "25\u202f%spatial, MPS prod", "40\u202f%spatial, MPS prod",
                                              "50\u202f%slice"])
        self.assertEqual(shares.count("\u2013"), 4)
        held = tab.run("[...document.querySelectorAll('#tenants td[data-label=Held]')].map(e => e.textContent).join()")
        self.assertRegex(held, "gate 8\\d\\d\u202fs.*borrowed ")
        first, second = tab.run("[...document.querySelectorAll('#devices .foot')].map(e => e.textContent)")
        self.assertIn("who goes first waits at most 2.1\u202fms", first)
        self.assertIn("self-tests: green works, partitions no, spatial works", first)
        self.assertIn("slice works", second)
        self.assertEqual(tab.complaints(), [])

    def test_widths(self):
        for width, phone in ((1280, False), (768, False), (390, True), (320, True)):
            self.tab.look(width, 844, phone=phone)
            self.tab.open("about:blank")
            self.tab.open(self.url)
            self.wait("document.documentElement?.dataset.shown === 'yes'")
            wide = self.tab.run("document.documentElement.scrollWidth")
            self.assertLessEqual(wide, width, "it scrolls sideways")
        self.assertEqual(self.tab.complaints(), [])

    def test_a_wrong_token_asks_for_one(self):
        self.tab.look(390, 844, phone=True)
        self.tab.open("http://127.0.0.1:%d/#token=%s" % (self.console, "0" * 32))
        self.wait("!document.querySelector('#login').hidden && document.querySelector('#login-problem').textContent")
        self.assertIsNone(self.tab.run("sessionStorage.getItem('token')"))
        self.assertTrue(self.tab.run("document.querySelector('#main').hidden"))
        self.tab.run("document.querySelector('#token').value = '%s'; document.querySelector('#login button').click()" % self.token)
        self.wait("document.documentElement?.dataset.shown === 'yes'")
        self.assertTrue(self.tab.run("document.querySelector('#login').hidden"))

    def test_a_silent_daemon_is_shown(self):
        self.tab.open(self.url)
        self.wait("document.documentElement?.dataset.shown === 'yes'")
        self.order("freeze")
        self.wait("document.querySelector('#live').textContent.startsWith('the daemon is silent')")
        self.order("go")
        self.wait("document.querySelector('#live').textContent.startsWith('live')")


@unittest.skipUnless(chromium.find() and os.environ.get("SIGHT_PICTURES"), "SIGHT_PICTURES is not set")
class Pictures(Browser):
    flags = ("--tidy",)
    def test_pictures(self):
        folder = os.environ["SIGHT_PICTURES"]
        time.sleep(float(os.environ.get("SIGHT_HISTORY_S", "0")))  # a picture with a past
        for name, width, phone, dark in (("console-desktop", 1280, False, False), ("console-narrow", 820, False, False), ("console-desktop-dark", 1280, False, True),
                                         ("console-phone", 390, True, False)):
            self.tab.look(width, 900, scale=2 if phone else 1, phone=phone, dark=dark)
            self.tab.open("about:blank")
            self.tab.open(self.url)
            self.wait("document.documentElement?.dataset.shown === 'yes'")
            height = self.tab.run("document.documentElement.scrollHeight")
            self.tab.look(width, min(height, 1700), scale=2 if phone else 1, phone=phone, dark=dark)
            time.sleep(0.5)  # transitions
            self.tab.picture(os.path.join(folder, name + ".png"))


if __name__ == "__main__":
    main()
