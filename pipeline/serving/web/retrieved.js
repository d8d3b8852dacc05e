"use strict";
// What the report and the app share. `content` is theirs: {fps, runs, segments, videos}, as pipeline/serving/report/page.py has it.

const byId = (id) => document.getElementById(id);
const colour = (run) => `var(--run-${run === 0 && content.runs.length > 1 ? 0 : 1 + ((run + 5 - (content.runs.length > 1)) % 5)})`;
const seconds = (s) => (s >= 60 ? `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}` : `${s.toFixed(1)} s`);
const signed = (n) => (n > 0 ? "+" : n < 0 ? "−" : "±") + Math.abs(n).toFixed(1);
const shortened = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

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
const runLabel = (run) => make("span", { class: "run", style: `--colour: ${colour(run)}` }, content.runs[run].name);

const scale = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);

const picture = (segment, frame, label) => make("img", {
  src: `data:image/webp;base64,${content.videos[segment.video].thumbnails[frame]}`, alt: label, decoding: "async",
});

// What the memory gave, above; the video's time line; the segment's frames, below: curves join pictures to their times.
function drawRetrieved(segment, run) {
  const moments = run === null ? [] : segment.moments[run];
  const video = content.videos[segment.video];
  const until = Math.max(video.duration ?? segment.end, segment.end);
  const most = Math.max(...moments.map((moment) => moment.weight), 1e-9);
  const share = moments.reduce((sum, moment) => sum + moment.weight, 0);
  const film = make("section", { class: "film" });
  if (run !== null) {
    film.append(make("h3", {}, make("span", {}, "What the memory gave ", content.runs.filter((one) => one.remembers).length > 1 ? runLabel(run) : ""),
      make("span", {}, moments.length ? `these moments: ${(100 * share).toFixed(0)} % of the attention` : "")));
    film.append(moments.length
      ? make("div", { class: "frames remembered" }, moments.map((moment) => {
          const label = `${seconds(moment.frame / content.fps)}, ${((segment.end * content.fps - moment.frame) / content.fps).toFixed(1)} s before the end`;
          return make("figure", { title: label },
            fill(picture(segment, moment.frame, `retrieved: ${label}`), { style: `--strength: ${(1 + 3 * moment.weight / most).toFixed(1)}px` }, []),
            make("figcaption", {}, make("b", {}, `${(100 * moment.weight).toFixed(1)} %`), ` at ${seconds(moment.frame / content.fps)}`));
        }))
      : make("p", { class: "none" }, "Nothing: there was nothing to remember yet."));
  }
  const time = draw("svg", { class: "time", height: 96, role: "img", "aria-label": "the video's time line" });
  film.append(time);
  const strip = make("div", { class: "frames" }, segment.strip.map((frame) => make("figure", {},
    picture(segment, frame, `frame at ${seconds(frame / content.fps)}`), make("figcaption", {}, seconds(frame / content.fps)))));
  film.append(strip);
  if (moments.length) film.append(headsOf(segment, moments));

  const join = () => {
    const width = time.clientWidth || 600;
    time.setAttribute("viewBox", `0 0 ${width} 96`);
    const x = scale(0, until, 8, width - 8);
    const left = time.getBoundingClientRect().left;
    const middle = (figure) => { const its = figure.getBoundingClientRect(); return its.left + its.width / 2 - left; };
    const others = content.segments.filter((one) => one.video === segment.video);
    const bar = (one, mark) => draw("rect", { x: x(one.start), width: Math.max(2, x(one.end) - x(one.start)), y: 44, height: 8, rx: 4,
      fill: mark ? "var(--ink)" : "var(--soft)", opacity: mark ? 0.85 : 0.28 }, draw("title", {}, `${seconds(one.start)} to ${seconds(one.end)}: ${one.captions.at(-1).text}`));
    const curves = [...film.querySelectorAll(".remembered figure")].map((figure, i) => {
      const [from, to] = [middle(figure), x(moments[i].frame / content.fps)];
      return [draw("path", { d: `M${from},0C${from},26 ${to},16 ${to},42`, fill: "none", stroke: colour(run),
          "stroke-width": (1 + 4 * moments[i].weight / most).toFixed(1), opacity: 0.75, "stroke-linecap": "round" }),
        draw("circle", { cx: to, cy: 48, r: 3.5, fill: colour(run), stroke: "var(--card)" })];
    });
    const threads = [...strip.children].map((figure, i) => {
      const [from, to] = [x(segment.strip[i] / content.fps), middle(figure)];
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
      make("thead", {}, make("tr", {}, make("th"), moments.map((moment) => make("th", { scope: "col" }, seconds(moment.frame / content.fps))))),
      make("tbody", {}, heads.map((name) => make("tr", {},
        make("th", { scope: "row" }, `layer ${name.split("/")[0]}, head ${name.split("/")[1]}`),
        moments.map((moment) => {
          const found = moment.heads.find(([layer, head]) => `${layer}/${head}` === name);
          const weight = found ? found[2] : 0;
          return make("td", { style: `background: color-mix(in srgb, var(--run-1) ${(75 * weight / most).toFixed(0)}%, transparent)` },
            weight ? `${(100 * weight).toFixed(1)} %` : "");
        })))))));
}
