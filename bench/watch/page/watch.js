"use strict";
// The page of a run: events come from the server, `apply` adds each to the state, `draw` shows the state. To show an
// earlier time, the state is made anew from the events up to then. Text from events is only ever set as text.

const KEPT = { log: 300, splits: 120, history: 2000, samples: 40 };
const RATE_S = 2; // bytes a second are a mean over about so long
const byId = (id) => document.getElementById(id);

// State

function emptyScene() {
  return { of: "", links: [], route: null, nodes: new Map(), done: null, total: null, history: [], splits: [], traffic: new Map(), moved: new Map(), updates: 0, stop: null, latency: null };
}

function emptyState() {
  return { run: null, cases: new Map(), done: 0, left: null, curves: new Map(), verdicts: [], log: [], end: null, full: false, scene: emptyScene() };
}

function ranges(done, total) {
  const found = new Map();
  let from = 0;
  for (const [node, until] of Object.entries(done)) {
    const to = until === null ? total : until;
    found.set(node, [from, to]);
    from = to;
  }
  return found;
}

function rangeText([from, to]) {
  if (to === null) return `from layer ${from + 1} on`;
  if (to <= from) return "no layers";
  return to === from + 1 ? `layer ${to}` : `layers ${from + 1}–${to}`;
}

function pushed(list, item, most) {
  list.push(item);
  if (list.length > most) list.splice(0, list.length - most);
}

const kinds = {
  run(state, event) { Object.assign(state, emptyState(), { run: event }); },
  started(state, event) {
    state.cases.set(event.case, { title: event.title, state: "running", text: "" });
    state.left = event.left_s ?? null;
  },
  say(state, event) { const one = state.cases.get(event.case); if (one) one.text = event.text; },
  ended(state, event) {
    const one = state.cases.get(event.case);
    if (!one) return;
    one.state = one.state === "failed" ? "failed" : "done";
    one.seconds = event.seconds;
    state.done += 1;
  },
  failed(state, event) { const one = state.cases.get(event.case); if (one) { one.state = "failed"; one.text = event.text; } },
  learned(state, event) {
    const key = `${event.case} ${event.curve}`, curve = state.curves.get(key) ?? { name: event.curve, of: event.case, points: [] };
    curve.points.push(event);
    state.curves.delete(key); // so that the last is the one that grows
    state.curves.set(key, curve);
    if (state.curves.size > 8) state.curves.delete(state.curves.keys().next().value);
  },
  chain(state, event) { state.scene = { ...emptyScene(), of: event.case, links: event.links }; },
  route(state, event) {
    state.scene.route = event.nodes;
    pushed(state.scene.splits, { at: event.at, kind: "route", text: `Route: ${event.nodes.join(" → ")}` }, KEPT.splits);
  },
  node(state, event) {
    for (const name of event.nodes) state.scene.nodes.set(name, event.state);
    if (event.state !== "ready" && event.state !== "done") pushed(state.scene.splits, { at: event.at, kind: "node", text: `${event.nodes.join(", ")}: ${event.state}` }, KEPT.splits);
  },
  changed(state, event) {
    const scene = state.scene, { upper, lower } = event.link;
    scene.links = scene.links.map((link) => (link.upper === upper && link.lower === lower ? event.link : link));
    pushed(scene.splits, { at: event.at, kind: "link", text: `Link ${upper}–${lower}: ${rateText(event.link.up.rate_bps)} up, ${rateText(event.link.down.rate_bps)} down` }, KEPT.splits);
  },
  traffic(state, event) {
    const link = state.scene.traffic.get(event.link) ?? [];
    pushed(link, event, KEPT.samples);
    state.scene.traffic.set(event.link, link);
  },
  layers(state, event) {
    const scene = state.scene, before = scene.done;
    scene.total = event.total ?? scene.total;
    scene.latency = event.latency_s ?? null;
    const now = ranges(event.done, scene.total), then = before ? ranges(before, scene.total) : new Map();
    const said = (name, of) => (of.has(name) ? rangeText(of.get(name)) : "no layers");
    const moved = [...new Set([...now.keys(), ...then.keys()])].filter((name) => said(name, now) !== said(name, then));
    if (moved.length) {
      const parts = (before ? moved : [...now.keys()]).map((name) => `${name} ${said(name, now)}`);
      pushed(scene.splits, { at: event.at, kind: "split", head: before ? "Re-split" : "Split", text: `: ${parts.join(", ")}`, event }, KEPT.splits);
      for (const name of moved) scene.moved.set(name, event.at);
    }
    scene.done = event.done;
    pushed(scene.history, { at: event.at, done: event.done, total: scene.total }, KEPT.history);
  },
  update(state, event) {
    const scene = state.scene, last = scene.splits.at(-1), number = (scene.updates += 1);
    const text = (first) => `SCI update${first === number ? "" : `s ${first} to`} ${number}: the UE ${event.layers ? `stops after layer ${event.layers}` : "computes no layer"}`;
    if (last?.kind === "update" && last.layers === event.layers) return void Object.assign(last, { at: event.at, text: text(last.first) });
    const decided = scene.stop !== null && scene.stop !== event.layers; // tasks that begin from now on are split anew
    pushed(scene.splits, { at: event.at, kind: "update", first: number, layers: event.layers, text: `${decided ? ", decided by " : ""}${text(number)}`, ...(decided ? { head: "Re-split", event } : {}) }, KEPT.splits);
    scene.stop = event.layers;
  },
  verdict(state, event) { state.verdicts.push(event.text); },
  log(state, event) { pushed(state.log, event, KEPT.log); },
  end(state, event) { state.end = event; },
  full(state) { state.full = true; },
};

function apply(state, event) {
  if (Object.hasOwn(kinds, event.kind)) kinds[event.kind](state, event);
}

// Text

function rateText(bps) {
  if (bps === null || bps === undefined) return "unlimited";
  const [value, unit] = bps >= 1e9 ? [bps / 1e9, "Gbit/s"] : bps >= 1e6 ? [bps / 1e6, "Mbit/s"] : [bps / 1e3, "kbit/s"];
  return `${value.toPrecision(3).replace(/\.0+$/, "")} ${unit}`;
}

function bytesText(count) {
  const [value, unit] = count >= 1e6 ? [count / 1e6, "MB/s"] : count >= 1e3 ? [count / 1e3, "kB/s"] : [count, "B/s"];
  return `${value >= 100 || unit === "B/s" ? value.toFixed(0) : value.toFixed(1)} ${unit}`;
}

function duration(seconds) {
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const clockText = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

// Drawing

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { hue, width, ...rest } = properties;
  Object.assign(made, rest);
  if (hue !== undefined) made.style.setProperty("--hue", hue);
  if (width !== undefined) made.style.width = width;
  made.append(...children);
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "hue") made.style.setProperty("--hue", value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function fill(id, ...children) { byId(id).replaceChildren(...children); }

function fillList(id, items) { // a reader who scrolled down stays there
  const list = byId(id), top = list.scrollTop;
  list.replaceChildren(...items);
  list.scrollTop = top;
}

function order(scene) {
  const links = scene.links;
  if (scene.route) return scene.route;
  if (links.length && links.every((link, index) => !index || links[index - 1].lower === link.upper)) return [links[0].upper, ...links.map((link) => link.lower)];
  if (!links.length && scene.done) return Object.keys(scene.done);
  return null;
}

function hues(scene) {
  const names = [...new Set([...scene.links.flatMap((link) => [link.upper, link.lower]), ...Object.keys(scene.done ?? {})])];
  return new Map(names.map((name, index) => [name, `var(--n${index % 8})`]));
}

function flow(scene, index, now) { // bytes a second up and down, and the rates now
  const samples = scene.traffic.get(index) ?? [], last = samples.at(-1);
  if (!last) return null;
  const first = samples.find((sample) => sample.at >= last.at - RATE_S) ?? last, seconds = last.at - first.at, stale = now - last.at > 2 * RATE_S;
  const mean = (name) => (seconds > 0 && !stale ? (last[name] - first[name]) / seconds : 0);
  return { up: mean("up_bytes"), down: mean("down_bytes"), upBps: last.up_bps, downBps: last.down_bps };
}

function linkFacts(scene, index, now) {
  const link = scene.links[index], found = flow(scene, index, now);
  const up = found && link.trace ? found.upBps : link.up.rate_bps, down = found && link.trace ? found.downBps : link.down.rate_bps;
  const rate = up === down ? rateText(up) : `${rateText(up)} ↑ ${rateText(down)} ↓`;
  const delay = link.up.delay_s === link.down.delay_s ? [link.up.delay_s] : [link.up.delay_s, link.down.delay_s];
  return { rate, delay: `${delay.map((one) => +(one * 1e3).toPrecision(3)).join(" / ")} ms`, up: found ? bytesText(found.up) : "–", down: found ? bytesText(found.down) : "–" };
}

function drawChain(state, now) {
  const scene = state.scene, names = order(scene), colours = hues(scene), held = scene.done ? ranges(scene.done, scene.total) : new Map(), of = state.cases.get(scene.of);
  byId("chain-part").hidden = !scene.links.length && !scene.done;
  byId("chain-case").textContent = [of?.title, of && of.state !== "running" ? "ended" : "", scene.latency === null ? "" : `last task ${duration(scene.latency)}`].filter(Boolean).join(" · ");
  if (names) {
    const parts = [];
    names.forEach((name, place) => {
      if (place) {
        const index = scene.links.findIndex((link) => link.upper === names[place - 1] && link.lower === name);
        const facts = index < 0 ? { rate: "no link", delay: "", up: "–", down: "–" } : linkFacts(scene, index, now);
        parts.push(element("div", { className: "link" }, element("span", { className: "rate", textContent: facts.rate }), element("span", { textContent: facts.delay }), element("div", { className: "wire" }),
          element("span", { textContent: `→ ${facts.up}`, title: "Bytes a second away from the UE" }), element("span", { textContent: `← ${facts.down}`, title: "Bytes a second towards the UE" })));
      }
      const range = held.get(name), gone = ["lost", "silent"].includes(scene.nodes.get(name)), moved = now - (scene.moved.get(name) ?? 0) < 1.6;
      const track = element("div", { className: "track" });
      if (range && scene.total) {
        const bar = element("i", { width: `${(100 * (range[1] - range[0])) / scene.total}%` });
        bar.style.marginLeft = `${(100 * range[0]) / scene.total}%`;
        track.append(bar);
      }
      const text = gone ? scene.nodes.get(name) : range ? rangeText(range) + (scene.total && range[1] > range[0] ? ` of ${scene.total}` : "") : scene.done ? "no layers" : scene.nodes.get(name) ?? "starting";
      parts.push(element("div", { className: `node${gone ? " gone" : ""}${moved ? " moved" : ""}`, hue: colours.get(name) ?? "var(--n7)" }, element("b", { textContent: name }), element("span", { className: "range", textContent: text }), ...(scene.total ? [track] : [])));
    });
    fill("chain", ...parts);
    const off = [...new Set([...scene.links.flatMap((link) => [link.upper, link.lower]), ...scene.nodes.keys()])].filter((name) => !names.includes(name));
    byId("off-route").textContent = off.length ? `Not on the route: ${off.map((name) => (scene.nodes.has(name) ? `${name} (${scene.nodes.get(name)})` : name)).join(", ")}` : "";
    return;
  }
  const shown = scene.links.slice(0, 40), more = scene.links.length - shown.length;
  const cell = (text) => element("td", { textContent: text });
  const rows = shown.map((link, index) => {
    const facts = linkFacts(scene, index, now);
    return element("tr", {}, cell(`${link.upper} → ${link.lower}`), cell(facts.rate), cell(facts.delay), cell(facts.up), cell(facts.down));
  });
  const head = element("tr", {}, ...["Link", "Rate", "Delay", "Up", "Down"].map((text) => element("th", { textContent: text, scope: "col" })));
  fill("chain", element("table", { className: "links" }, element("thead", {}, head), element("tbody", {}, ...rows)));
  byId("off-route").textContent = more > 0 ? `and ${more} more links` : "";
}

function drawHistory(state, now) {
  const scene = state.scene, history = scene.history, colours = hues(scene);
  const shown = history.length > 0 && scene.total !== null && scene.latency !== null;
  byId("history-part").hidden = !shown;
  if (!shown) return;
  const box = byId("history"), width = Math.max(220, box.clientWidth), height = 170, left = 30, bottom = 18, plot = { w: width - left - 6, h: height - bottom - 6 };
  const ended = state.end || now - history.at(-1).at > 3, until = ended ? history.at(-1).at : now, since = Math.max(history[0].at, until - 120), span = Math.max(until - since, 0.5);
  const x = (at) => left + (plot.w * Math.max(0, at - since)) / span, y = (layer) => 6 + (plot.h * layer) / scene.total;
  const names = [...new Set(history.flatMap((one) => Object.keys(one.done)))];
  const art = drawing("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Layers of each node over time" });
  const same = (one, other) => other && JSON.stringify(one.done) === JSON.stringify(other.done);
  const changes = history.filter((one, index) => !same(one, history[index - 1]));
  changes.forEach((one, index) => {
    const to = changes[index + 1]?.at ?? until;
    if (to < since) return;
    for (const [name, [from, stop]] of ranges(one.done, one.total)) {
      if (stop > from) art.append(drawing("rect", { class: "area", hue: colours.get(name) ?? "var(--n7)", x: x(one.at), y: y(from), width: Math.max(0.6, x(to) - x(one.at) + 0.4), height: Math.max(1, y(stop) - y(from) - 1) }));
    }
  });
  for (const split of scene.splits) if (split.kind === "split" && split.head === "Re-split" && split.at >= since) art.append(drawing("line", { class: "mark", x1: x(split.at), x2: x(split.at), y1: 2, y2: height - bottom }));
  for (const layer of [0, scene.total]) art.append(drawing("text", { x: left - 5, y: y(layer) + (layer ? 0 : 9), "text-anchor": "end" }, String(layer || 1)));
  art.append(drawing("text", { x: left, y: height - 4 }, `${duration(span)} ago`), drawing("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, ended ? "end" : "now"));
  box.replaceChildren(art);
  fill("legend", ...names.map((name) => element("span", { textContent: name, hue: colours.get(name) ?? "var(--n7)" })));
}

function drawSplits(state, now) {
  const splits = state.scene.splits;
  byId("splits-part").hidden = !splits.length;
  fillList("splits", [...splits].reverse().map((one) => {
    const event = one.event ?? {};
    if (one.event && !replaying && one.at >= opened) event.shown ??= Date.now() / 1000 - one.at;
    const delay = event.shown === undefined ? "" : `shown ${Math.max(0, Math.round(event.shown * 1000))} ms later`;
    const made = element("li", { className: `of-${one.kind}` + (now - one.at < 1.6 && one.kind === "split" ? " moved" : "") }, element("time", { textContent: clockText(one.at) }), element("b", { textContent: one.head ?? "" }), one.text, element("span", { className: "note", textContent: delay }));
    if (event.shown !== undefined) made.dataset.shownS = event.shown;
    return made;
  }));
}

function drawCurves(state) {
  const curves = [...state.curves.values()].slice(-6);
  byId("curves-part").hidden = !curves.length;
  if (!curves.length) return;
  const cases = new Set(curves.map((curve) => curve.of)), several = (of) => curves.filter((curve) => curve.of === of).length > 1;
  const title = (curve) => [cases.size > 1 ? state.cases.get(curve.of)?.title : "", cases.size > 1 && !several(curve.of) ? "" : curve.name].filter(Boolean).join(": ");
  const charts = [["loss", "Training loss"], ["test_accuracy", "Test accuracy"]].filter(([name]) => curves.some((curve) => curve.points.some((point) => Number.isFinite(point[name]))));
  fill("curves", ...charts.map(([name, about]) => chart(about, curves.map((curve) => ({ name: title(curve), points: curve.points.filter((point) => Number.isFinite(point[name])).map((point) => [point.at_epoch, point[name]]) })))));
}

function chart(title, series) {
  const width = 300, height = 170, left = 46, bottom = 20, top = 20, all = series.flatMap((one) => one.points);
  const most = Math.max(...all.map(([, value]) => value)), least = Math.min(...all.map(([, value]) => value)), last = Math.max(...all.map(([at]) => at)), first = Math.min(...all.map(([at]) => at));
  const x = (at) => left + ((width - left - 10) * (at - first)) / Math.max(last - first, 1), y = (value) => top + ((height - top - bottom) * (most - value)) / Math.max(most - least, 1e-9);
  const art = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} by epoch` }, drawing("text", { x: left, y: 12 }, title));
  for (const value of [least, most]) art.append(drawing("line", { class: "grid", x1: left, x2: width - 10, y1: y(value), y2: y(value) }), drawing("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(3)));
  art.append(drawing("text", { x: left, y: height - 5 }, `epoch ${first}`), drawing("text", { x: width - 10, y: height - 5, "text-anchor": "end" }, String(last)));
  series.forEach((one, index) => {
    const hue = `var(--n${index % 8})`, place = one.points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
    art.append(drawing("polyline", { class: "curve", hue, points: place.join(" ") }));
    for (const [at, value] of one.points.slice(-60)) art.append(drawing("circle", { class: "dot", hue, cx: x(at), cy: y(value), r: 2.5 }));
  });
  const legend = element("div", { className: "note" });
  legend.append(...series.map((one, index) => { const made = element("span", { className: "curve-name", textContent: one.name }); made.style.color = `var(--n${index % 8})`; return made; }));
  return element("div", {}, art, legend);
}

function drawCases(state) {
  const total = state.run?.cases ?? state.cases.size, rank = { running: 0, failed: 1, done: 2 };
  const sorted = [...state.cases.values()].reverse().sort((one, two) => rank[one.state] - rank[two.state]);
  fillList("cases", sorted.slice(0, 200).map((one) => element("li", { className: one.state }, element("b", { textContent: one.title }), element("span", { className: "note", textContent: one.state === "done" ? duration(one.seconds) : one.text }))));
  const gone = over && !replaying && !state.end; // killed: nothing runs any more
  const running = sorted.filter((one) => one.state === "running").length, failed = sorted.filter((one) => one.state === "failed").length;
  const left = Math.max(0, total - state.done - running);
  byId("count").textContent = [`${state.done} of ${total} cases done`, running ? `${running} ${gone ? "cut off" : "running"}` : "", left ? `${left} left` : "", failed ? `${failed} failed` : "", state.left !== null && (running || left) && !state.end && !gone ? `about ${duration(state.left)} to go` : ""].filter(Boolean).join(" · ");
  byId("bar").setAttribute("aria-valuemax", Math.max(total, 1));
  byId("bar").setAttribute("aria-valuenow", state.done);
  byId("bar").firstElementChild.style.width = `${(100 * state.done) / Math.max(total, 1)}%`;
}

function drawHead(state) {
  const run = state.run, pill = byId("state");
  byId("name").textContent = run?.name ?? "SplitMEC";
  document.title = run ? `${run.name} – SplitMEC` : "SplitMEC";
  const facts = run ? [run.scale && `scale ${run.scale}`, run.seed !== undefined && `seed ${run.seed}`, run.device, run.shaping && `links ${run.shaping}`, run.unwatched && "run without --watch: links, splits and curves were not kept", state.full && "too many events; the rest was not kept"] : [];
  byId("conditions").textContent = facts.filter(Boolean).join(" · ");
  const code = state.end?.exit_code;
  pill.className = state.end ? (code ? "failed" : "ended") : lost ? "lost" : "";
  pill.textContent = state.end ? (code ? `ended with exit code ${code}` : "ended") : lost ? "connection lost" : run ? (over ? "stopped" : "running") : "waiting";
}

function draw() {
  const now = replaying ? shownAt : Math.max(state.scene.history.at(-1)?.at ?? 0, over ? events.at(-1)?.at ?? 0 : Date.now() / 1000);
  drawHead(state);
  drawCases(state);
  drawChain(state, now);
  drawHistory(state, now);
  drawSplits(state, now);
  drawCurves(state);
  byId("verdicts-part").hidden = !state.verdicts.length;
  fill("verdicts", ...state.verdicts.map((text) => element("li", { textContent: text })));
  fillList("log", [...state.log].reverse().map((one) => element("li", { className: one.level }, element("time", { textContent: clockText(one.at) }), one.text)));
  const first = events[0]?.at ?? 0, last = events.at(-1)?.at ?? 1, slider = byId("time"), at = replaying ? shownAt : last;
  slider.min = first;
  slider.max = Math.max(last, first + 0.001);
  slider.value = at;
  byId("clock").textContent = events.length ? `${duration(at - first)} of ${duration(last - first)}` : "";
  byId("live").disabled = !replaying;
  byId("play").textContent = playing ? "Pause" : "Replay";
}

// Time: the latest, or a replay

const events = [];
let state = emptyState(), applied = 0, replaying = false, playing = false, shownAt = 0, lost = false, over = false, due = false, drawnAt = 0;

function catchUp() {
  const target = replaying ? shownAt : Infinity;
  if (applied && events[applied - 1].at > target) { state = emptyState(); applied = 0; }
  while (applied < events.length && events[applied].at <= target) apply(state, events[applied++]);
}

function soon() {
  if (due) return;
  due = true;
  setTimeout(() => requestAnimationFrame(() => { due = false; drawnAt = Date.now(); catchUp(); draw(); }), Math.max(0, 100 - (Date.now() - drawnAt)));
}

function show(at) { replaying = true; shownAt = at; soon(); }

let ticked = 0;
function tick(time) {
  if (!playing) return;
  const last = events.at(-1)?.at ?? 0;
  shownAt = Math.min(last, shownAt + ((time - ticked) / 1000) * Number(byId("speed").value));
  ticked = time;
  if (shownAt >= last) playing = false;
  soon();
  requestAnimationFrame(tick);
}

byId("play").addEventListener("click", () => {
  playing = !playing;
  if (!playing || !events.length) return soon();
  const last = events.at(-1).at;
  if (!replaying || shownAt >= last) shownAt = events[0].at;
  replaying = true;
  requestAnimationFrame((time) => { ticked = time; tick(time); });
});
byId("time").addEventListener("input", () => { playing = false; show(Number(byId("time").value)); });
byId("live").addEventListener("click", () => { replaying = playing = false; soon(); });
addEventListener("resize", soon);
setInterval(() => { if (!state.end && !replaying) soon(); }, 500); // for what only time changes

const opened = Date.now() / 1000, source = new EventSource("events");
source.onmessage = (message) => {
  let event;
  try { event = JSON.parse(message.data); } catch { return; }
  events.push(event);
  soon();
};
source.onopen = () => { lost = false; soon(); };
source.onerror = () => { lost = !over; soon(); };
source.addEventListener("over", () => { over = true; source.close(); soon(); });
