"use strict";
// Read-only view of one node. Every text is put in with textContent: names of tenants and processes are chosen by
// strangers. The token comes once in the address's fragment (which no server sees) or from the field, and stays in
// this tab's sessionStorage.
(() => {
  const $ = (id) => document.getElementById(id);
  const kState_ms = 2000, kHistory_ms = 5000, kSvg = "http://www.w3.org/2000/svg";
  let state = null, history = new Map(), points = 180, step_s = 5;
  let sort = { key: "name", down: false };

  // ---- small tools ----
  const make = (tag, cls, text) => {
    const e = document.createElement(tag);
    if (cls) e.className = cls;
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const draw = (tag, attributes) => {
    const e = document.createElementNS(kSvg, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    return e;
  };
  const put = (e, text) => { if (e.textContent !== text) e.textContent = text; };
  const size = (bytes) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let i = 0, v = bytes;
    while (v >= 1024 && i < units.length - 1) { v /= 1024; i++; }
    return (i === 0 ? v : v.toFixed(v < 10 ? 2 : v < 100 ? 1 : 0)) + "\u202f" + units[i];
  };
  const percent = (v) => v === null || v === undefined ? "\u2013" : v.toFixed(v < 10 ? 1 : 0) + "\u202f%";
  const count = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
  const micro = (us) => us === null || us === undefined ? "\u2013"
    : us < 1000 ? "< " + us + "\u202f\u00b5s" : "< " + (us / 1000).toFixed(us < 10000 ? 1 : 0) + "\u202fms";
  const two = (n) => String(n).padStart(2, "0");
  const clock = (ms) => { const d = new Date(ms); return two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds()); };
  const ratio = (part, whole) => whole > 0 ? Math.min(1, part / whole) : 0;
  const label = (uuid) => {
    const d = state.devices.find((x) => x.uuid === uuid);
    return d ? String(d.index) : uuid.slice(4, 8);
  };

  // ---- pictures ----
  const series = (tenant, uuid) => history.get(tenant + "\n" + uuid);
  // Values over the last 15 minutes; a gap is where nothing is known. `top` is the upper edge.
  const spark = (values, top, limit, what) => {
    const w = 300, h = 40, svg = draw("svg", { viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", role: "img" });
    svg.setAttribute("aria-label", what);
    svg.append(draw("line", { class: "base", x1: 0, y1: h - 0.5, x2: w, y2: h - 0.5 }));
    if (!values || top <= 0) return svg;
    const x = (i) => (i / (points - 1) * w).toFixed(1);
    const y = (v) => (h - 1 - Math.min(1, v / top) * (h - 3)).toFixed(1);
    let run = [];
    const close = () => {
      if (run.length > 1) {
        const path = run.map(([i, v]) => `${x(i)},${y(v)}`).join(" ");
        svg.append(draw("polygon", { class: "area", points: `${x(run[0][0])},${h} ${path} ${x(run[run.length - 1][0])},${h}` }));
        svg.append(draw("polyline", { class: "line", points: path }));
      }
      run = [];
    };
    values.forEach((v, i) => { if (v === null) close(); else run.push([i, v]); });
    close();
    if (limit > 0 && limit <= top) svg.append(draw("line", { class: "limit", x1: 0, x2: w, y1: y(limit), y2: y(limit) }));
    return svg;
  };
  const bar = (used, other, whole, mark, over) => {
    const b = make("div", over ? "bar over" : "bar");
    b.setAttribute("aria-hidden", "true");
    const i = make("i"), o = make("i", "other");
    i.style.width = 100 * ratio(used, whole) + "%";
    o.style.width = 100 * ratio(other, whole) + "%";
    b.append(i, o);
    if (mark > 0) { const m = make("i", "mark"); m.style.left = `calc(${100 * ratio(mark, whole)}% - 2px)`; b.append(m); }
    return b;
  };

  // ---- parts of the page ----
  const fact = (name, value, note, hot) => {
    const div = make("div", hot ? "hot" : "");
    const dd = make("dd", "", value);
    if (note) dd.append(" ", make("small", "", note));
    div.append(make("dt", "", name), dd);
    return div;
  };
  const sum = (list, f) => list.reduce((a, x) => a + f(x), 0);
  const show_facts = () => {
    const d = state.daemon, s = state;
    const used = sum(s.devices, (x) => x.used_bytes), total = sum(s.devices, (x) => x.total_bytes);
    $("facts").replaceChildren(
      fact("GPU memory in use", size(used), "of " + size(total)),
      fact("Promised", size(sum(s.devices, (x) => x.promised_bytes))),
      fact("Processes", count(sum(s.tenants, (t) => t.processes)), "in " + s.tenants.length + (s.tenants.length === 1 ? " tenant" : " tenants")),
      fact("Refused requests", count(sum(s.tenants, (t) => t.refused))),
      fact("Outside the books", count(s.strays.length), "", s.strays.length > 0),
      fact("Time to reuse, p99", micro(d.reap_delay_below_us.p99), count(d.reaped_processes) + " reaped"));
  };
  const show_devices = () => {
    $("devices").replaceChildren(...state.devices.map((d) => {
      const card = make("article", "card"), top = make("div", "top"), name = make("div"), use = make("div", "num");
      name.append(make("h3", "", "GPU " + d.index + " \u00b7 " + d.name), make("div", "soft small mono", d.uuid));
      use.append(make("h3", "", percent(d.utilisation_percent)), make("div", "soft small", "busy"));
      top.append(name, use);
      const big = make("p", "big", size(d.used_bytes) + " ");
      big.append(make("small", "", "of " + size(d.total_bytes)));
      const foot = make("div", "foot");
      foot.append(make("span", "key", "in use"), make("span", "key promise", "promised " + size(d.promised_bytes) + " (" + percent(100 * d.promised_bytes / (d.usable_bytes || d.total_bytes)) + ")"));
      if (d.reserve_bytes) foot.append(make("span", "", "reserve " + size(d.reserve_bytes)));
      if (d.mig) foot.append(make("span", "", "MIG"));
      if (d.gate_bound_us) {
        const bound = make("span", "", "who goes first waits " + micro(d.gate_bound_us).replace("<", "at most"));
        bound.title = "The longest batch operation that was measured, what may be queued ahead, and one switch";
        foot.append(bound);
      }
      const tested = Object.entries(d.self_tests).filter(([, seen]) => seen !== "unknown");
      if (tested.length) foot.append(make("span", "", "self-tests: " + tested.map(([what, seen]) => what + " " + seen).join(", ")));
      const s = series("", d.uuid);
      card.append(top, big, bar(d.used_bytes, 0, d.total_bytes, d.promised_bytes, false), foot,
        spark(s && s.used_mib, d.total_bytes / 1048576, d.promised_bytes / 1048576, "Memory in use over the last 15 minutes"));
      return card;
    }));
  };
  const tags = (t) => [
    [t.faulty, "region unreadable", "alarm"], [t.over_limit, "over limit", "alarm"], [t.faults > 0, "faults", "warn"],
    [t.overcommitted, "overcommitted", "warn"], [t.latency, "latency", ""], [t.ephemeral, "ephemeral", ""]];
  const below = (text) => make("div", "soft small", text);
  // How a share is held: the enforcer in force, what was asked if it differs, the MPS group, which is one failure domain.
  const mode_cell = (t, d) => {
    const td = cell("num", "Share", share_text(d.time));
    if (!d.time) return td;
    const note = below(t.enforcer + (t.mps_group ? ", MPS " + t.mps_group : ""));
    note.title = "asked: " + t.mode + (t.mps_group ? ". The group " + t.mps_group + " is one failure domain; MPS is " + t.mps_state : "");
    td.append(note);
    if (t.mps_group && t.mps_state !== "serving") td.append(make("span", "tag warn", "MPS " + t.mps_state));
    return td;
  };
  // Held by its share, and for latency tenants; what it had above its share.
  const held_cell = (d) => {
    const td = cell("num", "Held", d.time ? seconds(d.time.held_ms) : "\u2013");
    if (d.gated_ms > 0) td.append(below("gate " + seconds(d.gated_ms)));
    if (d.time && d.time.borrowed_ms > 0) td.append(below("borrowed " + seconds(d.time.borrowed_ms)));
    return td;
  };
  const cell = (cls, name, ...what) => {
    const td = make("td", cls);
    if (name) td.dataset.label = name;
    td.append(...what);
    return td;
  };
  // What the library counted goes before NVML's estimate.
  const had = (d) => d.time && d.time.delivered_percent !== null ? d.time.delivered_percent : d.share_percent;
  const share_text = (t) => {
    if (!t) return "\u2013";
    const p = (v) => String(Math.round(v * 100) / 100) + "\u202f%";
    if (t.ceiling_percent <= t.share_percent) return p(t.share_percent);
    return p(t.share_percent) + "+" + (t.ceiling_percent < 100 ? " to " + p(t.ceiling_percent) : "");
  };
  const seconds = (ms) => {
    const s = ms / 1000;
    if (s < 7200) return (s < 10 ? s.toFixed(1) : count(Math.round(s))) + "\u202fs";
    return s < 360000 ? (s / 3600).toFixed(1) + "\u202fh" : count(Math.round(s / 3600)) + "\u202fh";
  };
  const time_cell = (d) => {
    const td = cell("num", "GPU time", percent(had(d))), t = d.time;
    if (!t) return td;
    td.title = "used " + seconds(t.used_ms) + ", borrowed " + seconds(t.borrowed_ms) + ", forgiven " + seconds(t.forgiven_ms);
    if (t.delivered_percent !== null) {
      td.append(bar(t.delivered_percent, 0, Math.max(t.ceiling_percent, t.delivered_percent), t.share_percent, false));
    }
    return td;
  };
  const tenant_rows = () => {
    const wanted = $("filter").value.trim().toLowerCase();
    const rows = [];
    for (const t of state.tenants) {
      if (wanted && !t.name.toLowerCase().includes(wanted)) continue;
      for (const d of t.devices.length ? t.devices : [null]) rows.push({ t, d });
    }
    const value = {
      name: (r) => r.t.name, used: (r) => r.d ? r.d.used_bytes : -1, refused: (r) => r.t.refused,
      part: (r) => r.d ? r.d.used_bytes / Math.max(1, r.d.limit_bytes) : -1,
      share: (r) => r.d && had(r.d) !== null ? had(r.d) : -1,
      asked: (r) => r.d && r.d.time ? r.d.time.share_percent : -1,
      held: (r) => r.d && r.d.time ? r.d.time.held_ms : -1
    }[sort.key];
    rows.sort((a, b) => {
      const x = value(a), y = value(b);
      const order = x < y ? -1 : x > y ? 1 : a.t.name < b.t.name ? -1 : 1;
      return sort.down && x !== y ? -order : order;
    });
    return rows;
  };
  const tenant_row = ({ t, d }) => {
    const tr = make("tr"), who = cell("who", "", t.name);
    for (const [on, text, cls] of tags(t)) if (on) who.append(make("span", "tag " + cls, text));
    if (!d) { tr.append(who); return tr; }
    const memory = make("div", "", size(d.used_bytes) + " ");
    memory.append(make("span", "soft", "of " + size(d.limit_bytes) + (d.other_bytes ? ", " + size(d.other_bytes) + " contexts" : "")));
    if (d.dead_bytes) memory.append(make("span", "tag warn", size(d.dead_bytes) + " of the dead"));
    const s = series(t.name, d.uuid), mib = d.limit_bytes / 1048576;
    const most = s ? Math.max(mib, ...s.used_mib.map((v) => v || 0)) : mib;
    tr.append(who, cell("", "GPU", label(d.uuid)),
      cell("wide", "", memory, bar(d.used_bytes, d.other_bytes, d.limit_bytes, 0, d.used_bytes > d.limit_bytes)),
      cell("num", "Of limit", d.limit_bytes ? percent(100 * d.used_bytes / d.limit_bytes) : "\u2013"),
      time_cell(d), mode_cell(t, d), held_cell(d), cell("num", "Procs", count(d.processes)),
      cell("num", "Refused", count(t.refused)),
      cell("trend", "", spark(s && s.used_mib, most, mib < most ? mib : 0, "Memory of " + t.name + " over the last 15 minutes")));
    return tr;
  };
  const show_tenants = () => {
    const rows = tenant_rows(), shown = rows.slice(0, 400);
    put($("tenants-count"), String(state.tenants.length) + (rows.length > shown.length ? ", the first " + shown.length + " rows shown" : ""));
    $("tenants").tBodies[0].replaceChildren(...shown.map(tenant_row));
    $("tenants").hidden = state.tenants.length === 0;
    $("tenants-none").hidden = state.tenants.length !== 0;
  };
  const kStrays = { unregistered: "no tenant’s process", drift: "more than its books", "holds-node": "holds the device node" };
  const show_strays = () => {
    $("strays").tBodies[0].replaceChildren(...state.strays.map((s) => {
      const tr = make("tr"), who = cell("who", "", s.command || "\u2013");
      who.append(make("span", "tag", "pid " + s.pid));
      tr.append(who, cell("what", "What", kStrays[s.kind] || s.kind), cell("", "GPU", label(s.uuid)),
        cell("num", "Memory", size(s.bytes)), cell("", "User", "uid " + s.uid), cell("", "Tenant", s.tenant || "\u2013"),
        cell("num", "Seen", s.sightings + "\u00d7"));
      return tr;
    }));
    put($("strays-count"), state.strays.length ? String(state.strays.length) : "");
    $("strays").hidden = state.strays.length === 0;
    $("strays-none").hidden = state.strays.length !== 0;
  };
  const show_events = () => {
    const loud = $("only-warnings").checked;
    const list = state.events.filter((e) => !loud || e.severity === "warning" || e.severity === "alarm").slice(0, 100);
    $("events").replaceChildren(...list.map((e) => {
      const li = make("li", e.severity), when = make("time", "soft", clock(e.unix_ms)), say = make("span", "say");
      when.dateTime = new Date(e.unix_ms).toISOString();
      when.title = new Date(e.unix_ms).toLocaleString();
      if (e.tenant) say.append(make("b", "", e.tenant), " ");
      say.append(e.text);
      li.append(when, make("span", "kind", e.kind), say);
      return li;
    }));
    $("events").hidden = list.length === 0;
    $("events-none").hidden = list.length !== 0;
  };
  const show_live = () => {
    const at = $("live"), good = state && state.up;
    at.className = "live " + (good ? "good" : "bad");
    put(at, good ? "live, " + clock(state.unix_ms) + ", bulkheadd " + state.daemon.version
      : state && state.unix_ms ? "the daemon is silent since " + clock(state.unix_ms) : "the daemon has not written yet");
    $("main").classList.toggle("old", !good);
  };
  const show = () => {
    show_live();
    if (!state || !state.devices) return;
    show_facts(); show_devices(); show_tenants(); show_strays(); show_events();
    $("main").hidden = false;
    document.documentElement.dataset.shown = "yes";
  };

  // ---- asking ----
  const token = {
    get: () => sessionStorage.getItem("token") || "",
    set: (t) => sessionStorage.setItem("token", t),
    drop: () => sessionStorage.removeItem("token")
  };
  const ask = async (path) => {
    const r = await fetch(path, { headers: { Authorization: "Bearer " + token.get() }, cache: "no-store" });
    if (r.status === 401) { const e = new Error("token"); e.token = true; throw e; }
    if (!r.ok) throw new Error("answer " + r.status);
    return r.json();
  };
  const login = (problem) => {
    $("main").hidden = true;
    $("login").hidden = false;
    put($("login-problem"), problem);
    put($("live"), "a token is needed");
    $("live").className = "live";
    $("token").focus();
  };
  let last_history = -Infinity;
  const turn = async () => {
    if (!token.get()) { login(""); return; }
    try {
      if (performance.now() - last_history >= kHistory_ms) {
        const h = await ask("/api/v1/history");
        points = h.points; step_s = h.step_s;
        history = new Map(h.series.map((s) => [s.tenant + "\n" + s.uuid, s]));
        last_history = performance.now();
      }
      state = await ask("/api/v1/state");
      $("login").hidden = true;
      show();
    } catch (e) {
      if (e.token) { token.drop(); login("That token is not this daemon’s."); return; }
      $("live").className = "live bad";
      put($("live"), "no answer from the daemon");
      $("main").classList.add("old");
    }
    setTimeout(turn, document.hidden ? 5 * kState_ms : kState_ms);
  };

  $("login").addEventListener("submit", (e) => {
    e.preventDefault();
    token.set($("token").value.trim());
    $("token").value = "";
    last_history = -Infinity;
    turn();
  });
  for (const th of document.querySelectorAll("th[data-sort]")) {
    th.firstElementChild.addEventListener("click", () => {
      const key = th.dataset.sort;
      sort = { key, down: sort.key === key ? !sort.down : key !== "name" };
      for (const other of document.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      if (state) show_tenants();
    });
  }
  $("filter").addEventListener("input", () => state && show_tenants());
  $("only-warnings").addEventListener("change", () => state && show_events());
  const given = /^#token=([0-9a-f]+)$/.exec(location.hash);
  if (given) {
    token.set(given[1]);
    window.history.replaceState(null, "", location.pathname);
  }
  turn();
})();
