const content = JSON.parse(byId("content").textContent);
const { models, questions, videos, fps } = content;
const ROWS = 200; // of the list, at first and more at each scroll
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const kinds = [...new Set(questions.map((one) => one.kind))].filter((kind) => kind !== null).sort();
const filters = [
  ["all", () => true],
  ["those that models disagree on", (one) => new Set(one.given.map((given) => given.right)).size > 1],
  ...models.flatMap(({ name }, i) => [
    [`right by ${name}`, (one) => one.given[i].right],
    [`wrong by ${name}`, (one) => !one.given[i].right],
  ]),
];
const textOf = new Map(questions.map((one) =>
  [one, [one.id, one.video, one.question, ...one.answers, ...one.given.map((given) => given.answer ?? "")].join("\n").toLowerCase()]));
let kind = null;
let which = 0;
let words = "";
let shown = [];
let current = null;

byId("ran").textContent = `${questions.length} questions. Right: ${models.map(({ name, accuracy }) => `${name} ${accuracy.toFixed(1)} %`).join(", ")}.`;

function showKinds() {
  const count = (one) => questions.filter((question) => one === null || question.kind === one).length;
  byId("kinds").replaceChildren(...[null, ...kinds].map((one) => make("button",
    { type: "button", "aria-pressed": String(one === kind), onclick: () => { kind = one; showKinds(); showList(); } },
    `${one ?? "all"} ${count(one)}`)));
}

function showList() {
  const wanted = words.toLowerCase();
  shown = questions.filter((one) => (kind === null || one.kind === kind) && filters[which][1](one) && textOf.get(one).includes(wanted));
  byId("count").textContent = `${shown.length} of ${questions.length}`;
  byId("list").replaceChildren();
  showRows(ROWS);
  show(shown.includes(current) ? current : shown[0] ?? null);
}

function showRows(until) {
  const list = byId("list");
  list.append(...shown.slice(list.children.length, until).map((one) => make("li", { onclick: () => show(one) },
    make("div", { class: "top" }, make("span", {}, one.kind ?? ""), make("span", {}, one.given.map((given) => (given.right ? "✓" : "✗")).join(" "))),
    make("div", { class: "what" }, one.question))));
}

function show(one) {
  current = one;
  byId("list").querySelector("[aria-current]")?.removeAttribute("aria-current");
  if (one === null) return byId("segment").replaceChildren(make("p", { class: "none" }, "No question fits."));
  const at = shown.indexOf(one);
  showRows(at + 1);
  byId("list").children[at].setAttribute("aria-current", "true");
  byId("list").children[at].scrollIntoView({ block: "nearest" });
  byId("segment").replaceChildren(
    make("div", { class: "head" }, make("strong", {}, one.question),
      make("span", {}, `${one.kind ?? ""} · ${one.video}${one.end === null ? "" : `, asked at ${seconds(one.end)}`}`)),
    make("p", { class: "note" }, `Right: ${one.answers.join(", ") || "not public"}${one.options ? ` (of ${one.options.join(", ")})` : ""}. `,
      one.evidence.length ? `Evidence: ${one.evidence.map(([from, to]) => `${seconds(from)} to ${seconds(to)}`).join(", ")}.` : "No evidence given."),
    ...one.given.map((given, i) => drawGiven(one, given, models[i].name)));
}

function drawGiven(one, given, name) {
  const badge = make("span", { class: `badge ${given.right ? "right" : "wrong"}` }, given.right ? "✓ right" : "✗ wrong");
  const until = one.end ?? Math.max(1, ...given.looked.map(([time]) => time), ...one.evidence.map(([, to]) => to));
  return make("section", { class: "film given" },
    make("h3", {}, make("span", {}, name), badge, make("q", {}, given.answer ?? given.error),
      given.answer === null ? null : make("span", {}, `${percent(Math.exp(given.log_prob))}; then ${given.first.slice(1).join(", ")}`)),
    given.looked.length ? timeLine(one, given, until) : make("p", { class: "none" }, "It looked at no frame."),
    make("div", { class: "frames" }, given.moments.filter(({ frame }) => videos[one.video][frame]).map(({ frame, share }) => make("figure", {},
      make("img", { src: `data:image/webp;base64,${videos[one.video][frame]}`, alt: `frame at ${seconds(frame / fps)}` }),
      make("figcaption", {}, make("b", {}, percent(share)), ` ${seconds(frame / fps)}`)))));
}

function timeLine(one, given, until) {
  const x = scale(0, until, 8, 592);
  const most = Math.max(...given.looked.map(([, share]) => share), 1e-9);
  return draw("svg", { class: "time", viewBox: "0 0 600 40", role: "img",
      "aria-label": `looked at ${given.frames} frames; the evidence is ${one.evidence.map(([from, to]) => `${from} to ${to} s`).join(", ") || "not known"}` },
    draw("line", { x1: 8, x2: 592, y1: 16, y2: 16, stroke: "var(--line)", "stroke-width": 2 }),
    one.evidence.map(([from, to]) => draw("rect", { class: "evidence", x: x(from), width: Math.max(2, x(Math.min(to, until)) - x(from)), y: 10, height: 12, rx: 4, fill: "var(--right)", opacity: 0.35 })),
    given.looked.map(([time, share]) => draw("circle", { class: "looked", cx: x(time), cy: 16, r: (1.5 + 5 * Math.sqrt(share / most)).toFixed(1), fill: "var(--run-1)", opacity: 0.6 })),
    draw("text", { x: 8, y: 38 }, "0"), draw("text", { x: 592, y: 38, "text-anchor": "end" }, seconds(until)));
}

function move(by) {
  const next = shown[shown.indexOf(current) + by];
  if (next) show(next);
}

byId("which").replaceChildren(...filters.map(([label], value) => make("option", { value }, label)));
byId("which").addEventListener("change", (event) => { which = Number(event.target.value); showList(); });
byId("find").addEventListener("input", (event) => { words = event.target.value; showList(); });
byId("list").addEventListener("scroll", ({ target: list }) => {
  if (list.scrollTop + 2 * list.clientHeight > list.scrollHeight) showRows(list.children.length + ROWS);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) return event.key === "Escape" && event.target.blur();
  if (event.key === "j" || event.key === "ArrowDown") move(1);
  else if (event.key === "k" || event.key === "ArrowUp") move(-1);
  else if (event.key === "/") byId("find").focus();
  else return;
  event.preventDefault();
});
showKinds();
showList();
