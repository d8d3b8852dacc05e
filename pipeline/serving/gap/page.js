const content = JSON.parse(byId("content").textContent);
const LINES = ["var(--run-1)", "var(--run-2)", "var(--run-3)", "var(--run-4)", "var(--run-5)", "var(--run-0)"];
const HEIGHT = 260;
const margin = { left: 44, right: 12, top: 10, bottom: 34 };

for (const { title, about, tables, pictures, charts } of content.parts) {
  const id = `part-${title.replace(/\W+/g, "-")}`;
  byId("parts").append(make("section", { "aria-labelledby": id },
    make("h2", { id }, title),
    make("p", { class: "note" }, about),
    tables.map(drawTable),
    make("div", { class: "charts" }, charts.map(drawChart)),
    pictures.map(({ title, picture }) => make("figure", { class: "card wide" },
      make("figcaption", {}, title),
      make("div", { class: "scroll" }, make("img", { src: `data:image/webp;base64,${picture}`, alt: title }))))));
}

function drawTable({ heads, rows }) {
  return make("div", { class: "card" }, make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, rows.map(([first, ...others]) => make("tr", {}, make("th", { scope: "row" }, first), others.map((cell) => make("td", {}, cell))))))));
}

// In pixels, drawn anew when its width changes. A logarithmic axis has 0 at a third of its smallest value.
function drawChart({ title, x: name, logarithmic, lines }) {
  const svg = draw("svg", { class: "chart", height: HEIGHT, role: "img", "aria-label": title });
  const points = lines.flatMap((line) => line.points);
  const least = Math.min(...points.map(([x]) => x).filter((x) => x > 0));
  const place = (x) => (logarithmic ? Math.log10(Math.max(x, least / 3)) : x);
  const [xs, ys] = [points.map(([x]) => place(x)), points.map(([, y]) => y)];
  const [low, high] = [Math.min(0, ...ys), Math.max(...ys)];
  const y = scale(low, high, HEIGHT - margin.bottom, margin.top);
  new ResizeObserver(() => {
    const width = svg.clientWidth || 420;
    const x = scale(Math.min(...xs), Math.max(...xs), margin.left, width - margin.right);
    const marks = [...new Set(points.map(([at]) => at))].sort((a, b) => a - b);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren(
      ...[0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low)).flatMap((at) => [
        draw("line", { x1: margin.left, x2: width - margin.right, y1: y(at), y2: y(at), stroke: "var(--line)" }),
        draw("text", { x: margin.left - 6, y: y(at) + 4, "text-anchor": "end" }, at.toFixed(2))]),
      ...thinned(marks, (at) => x(place(at)), 44).map((at) => draw("text", { x: x(place(at)), y: HEIGHT - margin.bottom + 16, "text-anchor": "middle" }, String(at))),
      draw("text", { x: width - margin.right, y: HEIGHT - 3, "text-anchor": "end" }, name),
      ...lines.flatMap((line, i) => [
        draw("path", { d: "M" + line.points.map(([a, b]) => `${x(place(a)).toFixed(1)},${y(b).toFixed(1)}`).join("L"), fill: "none", stroke: LINES[i % LINES.length], "stroke-width": 2, "stroke-linejoin": "round" }),
        ...line.points.map(([a, b]) => draw("circle", { cx: x(place(a)), cy: y(b), r: 2.5, fill: LINES[i % LINES.length] }, draw("title", {}, `${line.name}, ${a}: ${b}`)))]));
  }).observe(svg);
  return make("figure", { class: "card" }, make("figcaption", {}, title), svg,
    make("div", { class: "legend" }, lines.map((line, i) => make("span", { class: "run", style: `--colour: ${LINES[i % LINES.length]}` }, line.name))));
}

// Marks of an axis that have room: none nearer than `room` pixels to the one before.
function thinned(marks, at, room) {
  const kept = [];
  for (const mark of marks) if (!kept.length || at(mark) - at(kept.at(-1)) >= room) kept.push(mark);
  return kept;
}
