"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const { runs, segments, videos, metrics, fps } = content;
const last = runs.length - 1;

const byId = (id) => document.getElementById(id);
const colour = (run) => `var(--run-${run === 0 && runs.length > 1 ? 0 : 1 + ((run + 5 - (runs.length > 1)) % 5)})`;
const seconds = (s) => (s >= 60 ? `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}` : `${s.toFixed(1)} s`);
const signed = (n) => (n > 0 ? "+" : n < 0 ? "−" : "±") + Math.abs(n).toFixed(1);

// All text from the data goes through append, which makes text of it and never markup.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const runLabel = (run) => make("span", { class: "run", style: `--colour: ${colour(run)}` }, runs[run].name);

function chips(node, names, isChosen, choose) {
  node.replaceChildren(
    ...names.map(([value, label]) =>
      make("button", { type: "button", "aria-pressed": String(isChosen(value)), onclick: () => choose(value) }, label)
    )
  );
}

// What ran

function showWhatRan() {
  const names = runs.map((run) => run.name).join(", ");
  const asked = runs[0].corpus["segments.asked"];
  byId("ran").textContent =
    `${runs.length > 1 ? "Runs" : "Run"}: ${names}. ${segments.length}` +
    (asked === undefined ? " segments" : ` of ${asked} segments`) +
    ` of ${Object.keys(videos).length} videos, ${fps} frames per second.`;
  byId("changed").replaceChildren(
    ...Object.entries(content.changed).map(([name, values]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, values.map((value) => JSON.stringify(value)).join(" → ")))
    )
  );
}

// Scores

let group = "all";

function showScores() {
  chips(
    byId("groups"),
    content.groups.map((one) => [one.name, one.name]),
    (name) => name === group,
    (name) => { group = name; showScores(); }
  );
  const { scores, segments: count } = content.groups.find((one) => one.name === group);
  const differences = Object.fromEntries(
    content.differences.filter((one) => one.group === group).map((one) => [one.metric, one])
  );
  const compared = content.differences.length > 0;
  const head = make(
    "tr", {}, make("th", { scope: "col" }, `${count} segments`),
    runs.map((_, run) => make("th", { scope: "col" }, runLabel(run))),
    compared ? make("th", { scope: "col" }, "difference") : null
  );
  const rows = Object.entries(scores).map(([metric, ofRuns]) => {
    const one = differences[metric];
    const sure = one && one.low * one.high > 0 ? (one.difference > 0 ? "better" : "worse") : "";
    return make(
      "tr", {}, make("th", { scope: "row" }, metric),
      ofRuns.map(([mean, low, high]) =>
        make("td", {}, mean.toFixed(1), make("small", {}, `${low.toFixed(1)} – ${high.toFixed(1)}`))),
      one
        ? make("td", {}, make("span", { class: sure }, signed(one.difference)),
            make("small", {}, `${signed(one.low)} … ${signed(one.high)}`),
            make("small", {}, `p ${one.p < 0.001 ? "< 0.001" : "= " + one.p.toFixed(3)}`))
        : compared ? make("td") : null
    );
  });
  byId("scores").replaceChildren(make("thead", {}, head), make("tbody", {}, rows));
  if (compared)
    byId("p-note").textContent = `The difference is ${runs[last].name} minus ${runs[0].name}, paired; p by approximate randomisation.`;
}

// Charts, in units of the box

const box = { width: 460, height: 190, left: 34, right: 10, top: 8, bottom: 30 };
const scale = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);
function ticks(from, to, most = 5) {
  const raw = (to - from) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + 1e-9; at += step) found.push(Number(at.toPrecision(6)));
  return found;
}

function chart(node, name, { yTo, marks, xTicks, xTitle }) {
  const y = scale(0, yTo, box.height - box.bottom, box.top);
  const lines = ticks(0, yTo).map((at) => [
    draw("line", { x1: box.left, x2: box.width - box.right, y1: y(at), y2: y(at), stroke: "var(--line)" }),
    draw("text", { x: box.left - 6, y: y(at) + 4, "text-anchor": "end" }, String(at)),
  ]);
  const below = xTicks.map(([x, label]) =>
    draw("text", { x, y: box.height - box.bottom + 16, "text-anchor": "middle" }, label));
  const title = draw("text", { x: box.width - box.right, y: box.height - 2, "text-anchor": "end" }, xTitle);
  const legend = make("div", { class: "legend" }, runs.map((_, run) => runLabel(run)));
  node.replaceChildren(
    draw("svg", { class: "chart", viewBox: `0 0 ${box.width} ${box.height}`, role: "img", "aria-label": name },
      lines, below, title, marks(y)),
    legend
  );
}

function showByKind() {
  const kinds = new Set(segments.map((segment) => segment.kind));
  const groups = content.groups.filter((one) => kinds.has(one.name) && one.scores.CIDEr);
  const shown = groups.length ? groups : content.groups.slice(0, 1);
  const step = (box.width - box.left - box.right) / shown.length;
  const x = (index, run) => box.left + step * (index + 0.5) + (run - last / 2) * Math.min(20, step / (runs.length + 1));
  chart(byId("by-kind"), "CIDEr by kind of segment", {
    yTo: Math.max(1, ...shown.flatMap((one) => one.scores.CIDEr.map((score) => score[2]))) * 1.05,
    xTicks: shown.map((one, index) => [x(index, last / 2), `${one.name} (${one.segments})`]),
    xTitle: "",
    marks: (y) => shown.map((one, index) => one.scores.CIDEr.map(([mean, low, high], run) => [
      draw("line", { x1: x(index, run), x2: x(index, run), y1: y(low), y2: y(high), stroke: colour(run), "stroke-width": 2.5,
        "stroke-linecap": "round", opacity: 0.5 }),
      draw("circle", { cx: x(index, run), cy: y(mean), r: 5.5, fill: colour(run) },
        draw("title", {}, `${runs[run].name}, ${one.name}: ${mean.toFixed(1)} (${low.toFixed(1)} – ${high.toFixed(1)})`)),
    ])),
  });
}

function showByLength() {
  const points = content.curves.flat();
  const [from, to] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  const x = scale(from, to, box.left + 4, box.width - box.right);
  const path = (pairs) => "M" + pairs.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join("L");
  chart(byId("by-length"), "CIDEr against segment length", {
    yTo: Math.max(1, ...points.map((p) => p[3])) * 1.05,
    xTicks: ticks(from, to).map((at) => [x(at), String(at)]),
    xTitle: "seconds",
    marks: (y) => content.curves.map((curve, run) => [
      draw("path", { fill: colour(run), opacity: 0.16,
        d: path([...curve.map((p) => [x(p[0]), y(p[3])]), ...curve.map((p) => [x(p[0]), y(p[2])]).reverse()]) + "Z" }),
      draw("path", { d: path(curve.map((p) => [x(p[0]), y(p[1])])), fill: "none", stroke: colour(run), "stroke-width": 2.2,
        "stroke-linejoin": "round" }),
    ]),
  });
}

// Segments

const gain = (segment) => segment.captions[last].scores.CIDEr - segment.captions[0].scores.CIDEr;
const orders = [
  ["in order of video", null],
  ...(runs.length > 1
    ? [[`most gained by ${runs[last].name}`, (a, b) => gain(b) - gain(a)],
       [`most lost by ${runs[last].name}`, (a, b) => gain(a) - gain(b)]]
    : []),
  [`best of ${runs[last].name}`, (a, b) => b.captions[last].scores.CIDEr - a.captions[last].scores.CIDEr],
  [`worst of ${runs[last].name}`, (a, b) => a.captions[last].scores.CIDEr - b.captions[last].scores.CIDEr],
  ["longest", (a, b) => b.end - b.start - (a.end - a.start)],
];
const kinds = [...new Set(segments.map((segment) => segment.kind))].filter((kind) => kind !== null).sort();
let kind = null;
let order = 0;
let words = "";
let shown = [];
let current = null;

function showKinds() {
  const count = (one) => segments.filter((segment) => one === null || segment.kind === one).length;
  chips(
    byId("kinds"),
    [[null, `all ${segments.length}`], ...kinds.map((one) => [one, `${one} ${count(one)}`])],
    (one) => one === kind,
    choose
  );
}
function choose(one) { kind = one; showKinds(); showList(); }

function showList() {
  const found = segments.filter((segment) => {
    if (kind !== null && segment.kind !== kind) return false;
    const text = [segment.id, ...segment.references, ...segment.captions.map((one) => one.text)].join("\n").toLowerCase();
    return text.includes(words.toLowerCase());
  });
  const by = orders[order][1];
  shown = by ? found.slice().sort(by) : found;
  byId("count").textContent = `${shown.length} of ${segments.length}`;
  byId("list").replaceChildren(...shown.map((segment) => make(
    "li", { "data-id": segment.id, onclick: () => show(segment) },
    make("div", { class: "top" }, make("span", {}, segment.kind ?? seconds(segment.start)),
      make("span", {}, runs.length > 1 ? signed(gain(segment)) : segment.captions[0].scores.CIDEr.toFixed(0))),
    make("div", { class: "what" }, segment.captions[last].text || "(no words)")
  )));
  if (!shown.includes(current)) current = shown[0] ?? null;
  show(current, { scroll: true });
}

function show(segment, { scroll = false } = {}) {
  current = segment;
  for (const row of byId("list").children) {
    const isCurrent = segment !== null && row.dataset.id === segment.id;
    row.toggleAttribute("aria-current", false);
    if (isCurrent) {
      row.setAttribute("aria-current", "true");
      const list = byId("list");
      const [top, bottom] = [row.offsetTop - list.offsetTop, row.offsetTop - list.offsetTop + row.offsetHeight];
      if (scroll && (top < list.scrollTop || bottom > list.scrollTop + list.clientHeight)) list.scrollTop = top - 60;
    }
  }
  if (segment === null) {
    byId("segment").replaceChildren(make("p", { class: "none" }, "No segment fits."));
    return;
  }
  history.replaceState(null, "", "#" + encodeURIComponent(segment.id));
  const at = shown.indexOf(segment);
  byId("segment").replaceChildren(
    make("div", { class: "head" },
      make("strong", {}, segment.kind ?? "segment"),
      make("span", {}, `${segment.video}, ${seconds(segment.start)} to ${seconds(segment.end)}`),
      make("div", { class: "step" },
        make("button", { type: "button", "aria-label": "previous segment", onclick: () => move(-1) }, "↑"),
        make("span", {}, `${at + 1} / ${shown.length}`),
        make("button", { type: "button", "aria-label": "next segment", onclick: () => move(1) }, "↓"))),
    captionsOf(segment),
    ...runs.map((run, index) => (run.remembers ? filmOf(segment, index) : null)).filter(Boolean),
    ...(runs.some((run) => run.remembers) ? [] : [filmOf(segment, null)])
  );
}

function captionsOf(segment) {
  return make("div", { class: "said" },
    segment.captions.map((caption, run) => make("div", {},
      runLabel(run),
      make("q", {}, caption.text || "(no words)"),
      make("span", { class: "figures" },
        caption.facts === null ? null
          : make("span", { class: `badge ${caption.facts ? "right" : "wrong"}` }, caption.facts ? "✓ right facts" : "✗ wrong facts"),
        Object.entries(caption.scores).filter(([name]) => name === "CIDEr" || name === "METEOR")
          .map(([name, score]) => `${name} ${score.toFixed(0)}`).join("  ")))),
    make("div", {},
      make("span", { class: "note" }, "references"),
      make("ul", { class: "references" }, segment.references.map((text) => make("li", {}, text)))));
}

const picture = (segment, frame, label) => make("img", {
  src: `data:image/webp;base64,${videos[segment.video].thumbnails[frame]}`, alt: label, decoding: "async",
});

// What the memory gave, above; the video's time line; the segment's frames, below: curves join pictures to their times.
function filmOf(segment, run) {
  const moments = run === null ? [] : segment.moments[run];
  const video = videos[segment.video];
  const until = Math.max(video.duration ?? segment.end, segment.end);
  const most = Math.max(...moments.map((moment) => moment.weight), 1e-9);
  const share = moments.reduce((sum, moment) => sum + moment.weight, 0);
  const film = make("section", { class: "film" });
  if (run !== null) {
    film.append(make("h3", {}, make("span", {}, "What the memory gave ", runs.filter((one) => one.remembers).length > 1 ? runLabel(run) : ""),
      make("span", {}, moments.length ? `these moments: ${(100 * share).toFixed(0)} % of the attention` : "")));
    film.append(moments.length
      ? make("div", { class: "frames remembered" }, moments.map((moment) => {
          const label = `${seconds(moment.frame / fps)}, ${((segment.end * fps - moment.frame) / fps).toFixed(1)} s before the end`;
          return make("figure", { title: label },
            fill(picture(segment, moment.frame, `retrieved: ${label}`), { style: `--strength: ${(1 + 3 * moment.weight / most).toFixed(1)}px` }, []),
            make("figcaption", {}, make("b", {}, `${(100 * moment.weight).toFixed(1)} %`), ` at ${seconds(moment.frame / fps)}`));
        }))
      : make("p", { class: "none" }, "Nothing: there was nothing to remember yet."));
  }
  const time = draw("svg", { class: "time", height: 96, role: "img", "aria-label": "the video's time line" });
  film.append(time);
  const strip = make("div", { class: "frames" }, segment.strip.map((frame) => make("figure", {},
    picture(segment, frame, `frame at ${seconds(frame / fps)}`), make("figcaption", {}, seconds(frame / fps)))));
  film.append(strip);
  if (moments.length) film.append(headsOf(segment, moments));

  const join = () => {
    const width = time.clientWidth || 600;
    time.setAttribute("viewBox", `0 0 ${width} 96`);
    const x = scale(0, until, 8, width - 8);
    const left = time.getBoundingClientRect().left;
    const middle = (figure) => { const its = figure.getBoundingClientRect(); return its.left + its.width / 2 - left; };
    const others = segments.filter((one) => one.video === segment.video);
    const bar = (one, mark) => draw("rect", { x: x(one.start), width: Math.max(2, x(one.end) - x(one.start)), y: 44, height: 8, rx: 4,
      fill: mark ? "var(--ink)" : "var(--soft)", opacity: mark ? 0.85 : 0.28 }, draw("title", {}, `${seconds(one.start)} to ${seconds(one.end)}: ${one.references[0]}`));
    const curves = [...film.querySelectorAll(".remembered figure")].map((figure, i) => {
      const [from, to] = [middle(figure), x(moments[i].frame / fps)];
      return [draw("path", { d: `M${from},0C${from},26 ${to},16 ${to},42`, fill: "none", stroke: colour(run),
          "stroke-width": (1 + 4 * moments[i].weight / most).toFixed(1), opacity: 0.75, "stroke-linecap": "round" }),
        draw("circle", { cx: to, cy: 48, r: 3.5, fill: colour(run), stroke: "var(--card)" })];
    });
    const threads = [...strip.children].map((figure, i) => {
      const [from, to] = [x(segment.strip[i] / fps), middle(figure)];
      return draw("path", { d: `M${from},54C${from},78 ${to},72 ${to},95`, fill: "none", stroke: "var(--soft)", opacity: 0.4 });
    });
    time.replaceChildren(
      draw("line", { x1: x(0), x2: x(until), y1: 48, y2: 48, stroke: "var(--line)", "stroke-width": 2 }),
      ...threads, ...others.map((one) => bar(one, one === segment)), ...curves.flat(),
      draw("text", { x: x(0), y: 68 }, "0"), draw("text", { x: x(until), y: 68, "text-anchor": "end" }, seconds(until)));
  };
  new ResizeObserver(join).observe(time);
  return film;
}

function headsOf(segment, moments) {
  const heads = [...new Set(moments.flatMap((moment) => moment.heads.map(([layer, head]) => `${layer}/${head}`)))].sort();
  const most = Math.max(...moments.flatMap((moment) => moment.heads.map((one) => one[2])), 1e-9);
  return make("details", { class: "heads" }, make("summary", {}, "by layer and head"),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, make("th"), moments.map((moment) => make("th", { scope: "col" }, seconds(moment.frame / fps))))),
      make("tbody", {}, heads.map((name) => make("tr", {},
        make("th", { scope: "row" }, `layer ${name.split("/")[0]}, head ${name.split("/")[1]}`),
        moments.map((moment) => {
          const found = moment.heads.find(([layer, head]) => `${layer}/${head}` === name);
          const weight = found ? found[2] : 0;
          return make("td", { style: `background: color-mix(in srgb, var(--run-1) ${(75 * weight / most).toFixed(0)}%, transparent)` },
            weight ? `${(100 * weight).toFixed(1)} %` : "");
        })))))));
}

function move(by) {
  const next = shown[shown.indexOf(current) + by];
  if (next) show(next, { scroll: true });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const digit = "0123456789".indexOf(event.key);
  if (event.key === "j" || event.key === "ArrowDown") move(1);
  else if (event.key === "k" || event.key === "ArrowUp") move(-1);
  else if (event.key === "/") byId("find").focus();
  else if (event.key === "s") { order = (order + 1) % orders.length; byId("sort").value = order; current = null; showList(); }
  else if (digit === 0) choose(null);
  else if (digit > 0 && digit <= kinds.length) choose(kinds[digit - 1]);
  else return;
  event.preventDefault();
});
byId("sort").replaceChildren(...orders.map(([label], value) => make("option", { value }, label)));
byId("sort").addEventListener("change", (event) => { order = Number(event.target.value); current = null; showList(); });
byId("find").addEventListener("input", (event) => { words = event.target.value; showList(); });

showWhatRan();
showScores();
showByKind();
showByLength();
showKinds();
current = segments.find((segment) => "#" + encodeURIComponent(segment.id) === location.hash) ?? null;
showList();
