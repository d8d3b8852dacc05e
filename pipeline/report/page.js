const content = JSON.parse(document.getElementById("content").textContent);
const { runs, segments, videos, fps } = content;
const last = runs.length - 1;

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
