const content = JSON.parse(document.getElementById("content").textContent);
const { runs, segments, videos, fps, main } = content;
const last = runs.length - 1;
const described = Object.fromEntries(content.scores.map((one) => [one.name, one]));
const better = (name, by) => (described[name].higher ? by : -by);

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

// All captioners, as pipeline.table wrote them

function showCaptioners() {
  if (!content.captioners) return;
  const [heads, ...rows] = content.captioners.table;
  byId("all-captioners").replaceChildren(
    make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head))),
    ...rows.map(([name, ...cells]) =>
      make("tr", {}, make("th", { scope: "row" }, name), cells.map((cell) => make("td", {}, cell))))
  );
  byId("captioners-note").textContent = content.captioners.note;
  byId("captioners").hidden = false;
}

// Scores

let group = "all";
const pValue = (p) => (p < 0.001 ? "< 0.001" : "= " + p.toFixed(3));

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
    const sure = one && one.low * one.high > 0 ? (better(metric, one.difference) > 0 ? "better" : "worse") : "";
    return make(
      "tr", {}, make("th", { scope: "row", title: described[metric].meaning }, metric),
      ofRuns.map(([mean, low, high]) =>
        make("td", {}, mean.toFixed(1), make("small", {}, `${low.toFixed(1)} – ${high.toFixed(1)}`))),
      one
        ? make("td", {}, make("span", { class: sure }, signed(one.difference)),
            make("small", {}, `${signed(one.low)} … ${signed(one.high)}`),
            make("small", {}, `p ${pValue(one.p)}`), make("small", {}, `Holm ${pValue(one.p_holm)}`))
        : compared ? make("td") : null
    );
  });
  byId("scores").replaceChildren(make("thead", {}, head), make("tbody", {}, rows));
  if (compared)
    byId("p-note").textContent = `The difference is ${runs[last].name} minus ${runs[0].name}, paired; p by approximate randomisation of ` +
      `whole videos; Holm: p corrected for all ${content.differences.length} comparisons of these runs.`;
}

// Charts, in pixels, drawn anew when their width changes: scaled down, their text could not be read on a phone

const margin = { left: 34, right: 10, top: 8, bottom: 30 };
function ticks(from, to, most = 5) {
  const raw = (to - from) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + 1e-9; at += step) found.push(Number(at.toPrecision(6)));
  return found;
}

// marks(width): what is drawn of a chart so wide.
function chart(node, name, height, marks) {
  const svg = draw("svg", { class: "chart", height, role: "img", "aria-label": name });
  const legend = make("div", { class: "legend" }, runs.map((_, run) => runLabel(run)));
  node.replaceChildren(make("div", { class: "tall" }, svg), legend);
  new ResizeObserver(() => {
    const width = svg.clientWidth || 460;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(...marks(width).flat(Infinity));
  }).observe(svg);
}

// A row for each kind, under its name: names may be long, and kinds many.
function showByKind() {
  const kinds = new Set(segments.map((segment) => segment.kind));
  const groups = content.groups.filter((one) => kinds.has(one.name) && one.scores[main]);
  const rows = groups.length ? groups : content.groups.filter((one) => one.scores[main]).slice(0, 1);
  const [line, name] = [13, 18]; // of a run, of a kind's name
  const step = name + line * runs.length + 6;
  const bottom = step * rows.length;
  const to = Math.max(1, ...rows.flatMap((one) => one.scores[main].map((score) => score[2]))) * 1.02;
  chart(byId("by-kind"), `${main} by kind of segment`, bottom + 20, (width) => {
    const x = scale(0, to, 6, width - 14);
    return [
      ticks(0, to, width / 80).map((at) => [
        draw("line", { x1: x(at), x2: x(at), y1: 0, y2: bottom, stroke: "var(--line)" }),
        draw("text", { x: x(at), y: bottom + 15, "text-anchor": "middle" }, String(at)),
      ]),
      rows.map((one, row) => [
        draw("text", { class: "kind", x: 0, y: row * step + 13 }, shortened(one.name, (width - 60) / 6.5), ` (${one.segments})`,
          draw("title", {}, one.name)),
        one.scores[main].map(([mean, low, high], run) => {
          const y = row * step + name + line * (run + 0.5);
          return [
            draw("line", { x1: x(low), x2: x(high), y1: y, y2: y, stroke: colour(run), "stroke-width": 2.5, "stroke-linecap": "round", opacity: 0.5 }),
            draw("circle", { cx: x(mean), cy: y, r: 4.5, fill: colour(run) },
              draw("title", {}, `${runs[run].name}, ${one.name}: ${mean.toFixed(1)} (${low.toFixed(1)} – ${high.toFixed(1)})`)),
          ];
        }),
      ]),
    ];
  });
}

function showByLength() {
  const points = content.curves.flat();
  const [from, to] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  const most = Math.max(1, ...points.map((p) => p[3])) * 1.05;
  const height = 200;
  const y = scale(0, most, height - margin.bottom, margin.top);
  const path = (pairs) => "M" + pairs.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join("L");
  chart(byId("by-length"), `${main} against segment length`, height, (width) => {
    const x = scale(from, to, margin.left + 4, width - margin.right);
    return [
      ticks(0, most).map((at) => [
        draw("line", { x1: margin.left, x2: width - margin.right, y1: y(at), y2: y(at), stroke: "var(--line)" }),
        draw("text", { x: margin.left - 6, y: y(at) + 4, "text-anchor": "end" }, String(at)),
      ]),
      (from === to ? [from] : ticks(from, to, width / 90)).map((at) => draw("text", { x: x(at), y: height - margin.bottom + 16, "text-anchor": "middle" }, String(at))),
      draw("text", { x: width - margin.right, y: height - 2, "text-anchor": "end" }, "seconds"),
      content.curves.map((curve, run) => from === to
        ? draw("circle", { cx: x(from), cy: y(curve[0][1]), r: 4.5, fill: colour(run) }) // all segments are as long: no curve
        : [
          draw("path", { fill: colour(run), opacity: 0.16,
            d: path([...curve.map((p) => [x(p[0]), y(p[3])]), ...curve.map((p) => [x(p[0]), y(p[2])]).reverse()]) + "Z" }),
          draw("path", { d: path(curve.map((p) => [x(p[0]), y(p[1])])), fill: "none", stroke: colour(run), "stroke-width": 2.2,
            "stroke-linejoin": "round" }),
        ]),
    ];
  });
}

// Segments

const mainOf = (segment, run) => segment.captions[run].scores[main];
const gain = (segment) => mainOf(segment, last) - mainOf(segment, 0);
const byGain = (a, b) => better(main, gain(b) - gain(a));
const byMain = (a, b) => better(main, mainOf(b, last) - mainOf(a, last));
const orders = [
  ["in order of video", null],
  ...(runs.length > 1
    ? [[`most gained by ${runs[last].name}`, byGain], [`most lost by ${runs[last].name}`, (a, b) => byGain(b, a)]]
    : []),
  [`best of ${runs[last].name}`, byMain],
  [`worst of ${runs[last].name}`, (a, b) => byMain(b, a)],
  ["longest", (a, b) => b.end - b.start - (a.end - a.start)],
  ...(segments.some((one) => one.explained.length) ? [["explained first", (a, b) => b.explained.length - a.explained.length]] : []),
];
const kinds = [...new Set(segments.map((segment) => segment.kind))].filter((kind) => kind !== null).sort();
let kind = null;
let order = 0;
let words = "";
let shown = [];
let current = null;

const ROWS = 200; // of the list, at first and more at each scroll: thousands, made at every key, would take a second
const textOf = new Map(segments.map((segment) => // in which words are looked for
  [segment, [segment.id, ...segment.references, ...segment.captions.map((one) => one.text)].join("\n").toLowerCase()]));

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
  const wanted = words.toLowerCase();
  const found = segments.filter((segment) => (kind === null || segment.kind === kind) && textOf.get(segment).includes(wanted));
  const by = orders[order][1];
  shown = by ? found.slice().sort(by) : found;
  byId("count").textContent = `${shown.length} of ${segments.length}`;
  byId("list").replaceChildren();
  byId("list").scrollTop = 0;
  showRows(ROWS);
  if (!shown.includes(current)) current = shown[0] ?? null;
  show(current, { scroll: true });
}

function showRows(until) {
  const list = byId("list");
  list.append(...shown.slice(list.children.length, until).map((segment) => make(
    "li", { "data-id": segment.id, onclick: () => show(segment) },
    make("div", { class: "top" }, make("span", {}, segment.kind ?? seconds(segment.start)),
      make("span", {}, runs.length > 1 ? signed(gain(segment)) : mainOf(segment, 0).toFixed(0))),
    make("div", { class: "what" }, segment.captions[last].text || "(no words)")
  )));
}
byId("list").addEventListener("scroll", ({ target: list }) => {
  if (list.scrollTop + 2 * list.clientHeight > list.scrollHeight) showRows(list.children.length + ROWS);
});

function show(segment, { scroll = false } = {}) {
  current = segment;
  const list = byId("list");
  const at = shown.indexOf(segment);
  showRows(at + 1);
  list.querySelector("[aria-current]")?.removeAttribute("aria-current");
  const row = list.children[at];
  if (row) {
    row.setAttribute("aria-current", "true");
    const [top, bottom] = [row.offsetTop - list.offsetTop, row.offsetTop - list.offsetTop + row.offsetHeight];
    if (scroll && (top < list.scrollTop || bottom > list.scrollTop + list.clientHeight)) list.scrollTop = top - 60;
  }
  if (segment === null) {
    byId("segment").replaceChildren(make("p", { class: "none" }, "No segment fits."));
    return;
  }
  history.replaceState(null, "", "#" + encodeURIComponent(segment.id));
  byId("segment").replaceChildren(
    make("div", { class: "head" },
      make("strong", {}, segment.kind ?? "segment"),
      make("span", {}, `${segment.video}, ${seconds(segment.start)} to ${seconds(segment.end)}`),
      make("div", { class: "step" },
        make("button", { type: "button", "aria-label": "previous segment", onclick: () => move(-1) }, "↑"),
        make("span", {}, `${at + 1} / ${shown.length}`),
        make("button", { type: "button", "aria-label": "next segment", onclick: () => move(1) }, "↓"))),
    captionsOf(segment),
    ...runs.map((run, index) => (run.remembers ? drawRetrieved(segment, index) : null)).filter(Boolean),
    ...(runs.some((run) => run.remembers) ? [] : [drawRetrieved(segment, null)]),
    ...explanationsOf(segment)
  );
}

function explanationsOf({ explained }) {
  return explained.map(({ method, strip }, at) => make("details", { class: "explained", open: at === 0 ? "" : null },
    make("summary", {}, `Where the attention captioner looked for each word: ${method}`),
    make("div", { class: "scroll" }, make("img", { src: `data:image/webp;base64,${strip}`, alt: `heat over the segment's frames, a row for each word (${method})` }))));
}

function captionsOf(segment) {
  return make("div", { class: "captions" },
    segment.captions.map((caption, run) => make("div", {},
      runLabel(run),
      make("q", {}, caption.text || "(no words)"),
      make("span", { class: "figures" },
        content.scores.filter((one) => one.boolean && one.name in caption.scores).map((one) => {
          const right = better(one.name, caption.scores[one.name] - 50) > 0;
          return make("span", { class: `badge ${right ? "right" : "wrong"}` }, `${right ? "✓ right" : "✗ wrong"} ${one.name}`);
        }),
        content.scores.filter((one) => !one.boolean && one.name in caption.scores)
          .map((one) => `${one.name} ${caption.scores[one.name].toFixed(0)}`).join("  ")))),
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

for (const node of document.querySelectorAll(".main")) node.textContent = main;
showWhatRan();
showCaptioners();
showScores();
showByKind();
showByLength();
showKinds();
current = segments.find((segment) => "#" + encodeURIComponent(segment.id) === location.hash) ?? null;
showList();
