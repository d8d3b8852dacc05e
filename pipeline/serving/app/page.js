// What was captioned last; retrieved.js reads it.
let content = JSON.parse(byId("content").textContent);
let file = null; // chosen last
let asking = null; // the request that is waited for: what comes of another, given up, is nobody's
let current = null; // the segment that is shown

const { variant, trainedOn, mostBytes, answers, searched } = content;
byId("ran").textContent = `Model: ${variant}${trainedOn ? `, ${trainedOn}` : ""}.`;
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + ".";

const DOING = {
  sampling: ["Reading", "s"], segmenting: ["Looking for changes in", "frames"], embedding: ["Looking at", "frames"], captioning: ["Captioning", "segments"],
};

function caption() {
  if (!file) return;
  giveUp();
  byId("result").hidden = true;
  byId("video").pause();
  if (file.size > mostBytes) return say(`No captions of ${file.name}: it is larger than ${(mostBytes / 2 ** 30).toFixed(0)} GiB`, true);
  const chosen = file;
  const started = Date.now();
  const request = (asking = new XMLHttpRequest());
  let seen = 0; // characters of the answer
  let last = {};
  const read = () => {
    const lines = request.responseText.slice(seen).split("\n");
    seen = request.responseText.length - lines.pop().length; // the last has not come whole
    for (const line of lines) tell(chosen, (last = JSON.parse(line)));
  };
  const end = (why) => { asking = null; showWork(false); if (why) say(`No captions of ${chosen.name}: ${why}`, true); };
  const mine = (act) => (event) => { if (asking === request) act(event); };
  request.upload.onprogress = mine((event) => {
    say(`Sending ${chosen.name}`);
    showWork(true, event.loaded / event.total, `${(event.loaded / 1e6).toFixed(0)} of ${(event.total / 1e6).toFixed(0)} MB`);
  });
  request.onprogress = mine(() => { if (request.status === 200) read(); });
  request.onload = mine(() => {
    if (request.status === 200) read();
    else try { last = JSON.parse(request.responseText); } catch { last = { error: request.statusText }; }
    end(last.content ? null : last.error ?? "the app broke off");
    if (last.content) showResult(chosen, last.content, (Date.now() - started) / 1000);
  });
  request.onerror = mine(async () => {
    const readable = await chosen.slice(0, 1).arrayBuffer().then(() => true, () => false);
    if (asking === request) end(readable
      ? "the app does not answer. If it has ended, start it again (make app)."
      : "the file cannot be read; it was moved or changed, or is a folder.");
  });
  say(`Sending ${chosen.name}`);
  showWork(true);
  request.open("POST", "/caption?segments=" + byId("segments").value);
  request.send(chosen);
}

function giveUp() {
  if (asking === null) return;
  const request = asking;
  asking = null;
  request.abort();
  showWork(false);
  say("Cancelled.");
}

function tell(chosen, line) {
  if (line.ahead !== undefined) {
    say(line.ahead ? `Waiting: ${line.ahead} ${line.ahead === 1 ? "video comes" : "videos come"} first` : `Reading ${chosen.name}`);
    showWork(true);
  } else if (line.doing) {
    const [verb, unit] = DOING[line.doing] ?? [line.doing, ""];
    say(`${verb} ${chosen.name}`);
    showWork(true, line.of ? line.done / line.of : undefined, `${line.done}${line.of ? ` of ${line.of}` : ""} ${unit}`);
  }
}

// The status is read aloud when it changes, so it says what is being done, and figures stand beside it.
function say(text, failed = false) {
  if (byId("state").textContent !== text) byId("state").textContent = text;
  byId("state").classList.toggle("failed", failed);
}

function showWork(on, share, done = "") {
  byId("work").hidden = !on;
  if (share === undefined) byId("progress").removeAttribute("value");
  else byId("progress").value = share;
  byId("done").textContent = done;
}

function showResult(chosen, told, took) {
  content = told;
  current = null;
  const { segments, videos } = content;
  say(`${chosen.name}: ${segments.length} ${segments.length === 1 ? "segment" : "segments"} of ${seconds(videos.video.duration)}, in ${took.toFixed(1)} s`);
  byId("warnings").replaceChildren(...content.warnings.map((warning) => make("li", {}, sentence(warning))));
  byId("about").textContent = content.about ? sentence(content.about) : "";
  byId("result").hidden = false;
  byId("ask").hidden = !content.seen;
  byId("answer").replaceChildren();
  byId("trouble").textContent = content.seen ? sentence(shortened(answers, 330)) : "";
  play(chosen);
  byId("captions").replaceChildren(...segments.map((segment) => make("li", {},
    make("button", { type: "button", onclick: () => { show(segment); seek(segment.start); } },
      make("span", { class: "when" }, `${seconds(segment.start)} – ${seconds(segment.end)}`),
      make("span", {}, segment.captions[0].text || "(no words)")))));
  show(segments[0]);
}

function show(segment) {
  if (segment === current) return;
  current = segment;
  [...byId("captions").children].forEach((row, i) =>
    row.firstChild.setAttribute("aria-current", String(content.segments[i] === segment)));
  const { remembers } = content.runs[0];
  byId("segment").replaceChildren(
    make("div", { class: "head" }, make("strong", {}, segment.captions[0].text || "(no words)"),
      make("span", {}, `${seconds(segment.start)} to ${seconds(segment.end)}`)),
    drawRetrieved(segment, remembers ? 0 : null)
  );
}
const showAt = (time) => {
  const now = content.segments.find((segment) => segment.start <= time && time < segment.end);
  if (now) show(now);
};

// A question about the video that is shown

async function ask(event) {
  event.preventDefault();
  const { seen } = content;
  const at = byId("until").value ? Math.min(shownAt() || 0.001, content.videos.video.duration) : null;
  byId("trouble").textContent = "Looking it up …";
  const told = await fetch("/ask", { method: "POST", body: JSON.stringify({ seen, question: byId("asked").value, at }) })
    .then((answer) => answer.json()).catch(() => ({ error: "the app does not answer. If it has ended, start it again (make app)" }));
  if (content.seen !== seen) return; // another video is shown by now
  byId("trouble").textContent = told.error ? sentence(told.error) : told.warnings.map(sentence).join(" ");
  byId("answer").replaceChildren(...(told.error ? [] : drawAnswer(told, at)));
}

function drawAnswer({ question, first, moments }, at) {
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  return [
    make("div", { class: "head" }, make("strong", {}, first[0][0]), make("span", {}, `${question} ${at === null ? "" : `(before ${seconds(at)})`}`)),
    make("table", { "aria-label": "likeliest answers" }, make("tbody", {}, first.map(([answer, share]) =>
      make("tr", {}, make("th", { scope: "row" }, answer), make("td", {}, percent(share)))))),
    make("section", { class: "film" },
      make("h3", {}, make("span", {}, "Where it looked"), make("span", {}, moments.length ? "shares of its attention" : "")),
      moments.length
        ? make("div", { class: "frames" }, moments.map(({ start, end, time, share, thumbnail }) => make("figure", {},
            make("button", { type: "button", class: "still", onclick: () => seek(time), "aria-label": `go to ${seconds(time)}` },
              make("img", { src: `data:image/webp;base64,${thumbnail}`, alt: `frame at ${seconds(time)}` })),
            make("figcaption", {}, make("b", {}, percent(share)), ` ${seconds(start)}${end > start ? ` – ${seconds(end)}` : ""}`))))
        : make("p", { class: "none" }, "At no frame: this answerer sees the question alone.")),
  ];
}
// Search in the project's own videos

let searching = 0; // the search that is waited for
byId("find").hidden = !searched;
byId("searched").textContent = `In ${searched}: what a frame shows, not what was before it.`;

async function find(what, body, headers = {}) {
  const mine = ++searching;
  byId("searched").textContent = asking ? "Looking, once the video is captioned …" : "Looking …";
  const told = await fetch("/find", { method: "POST", body, headers })
    .then((answer) => answer.json()).catch(() => ({ error: "the app does not answer. If it has ended, start it again (make app)" }));
  if (mine !== searching) return; // another was asked for
  byId("searched").textContent = told.error ? sentence(told.error) : `${what}: the most similar of ${searched}. Below each, its cosine.`;
  byId("found").replaceChildren(...(told.moments ?? []).map(({ video, at, similarity, thumbnail }) => make("figure", {},
    ...(thumbnail ? [make("img", { src: `data:image/webp;base64,${thumbnail}`, alt: `${video} at ${at}` })] : []),
    make("figcaption", {}, make("b", {}, similarity.toFixed(3)), ` ${video} ${at}`))));
}

const shownAt = () => byId("film").hidden ? video.currentTime : content.videos.video.film[byId("at").value][0] / content.fps;

// The player: the browser's own, or frames where it cannot play the file

const video = byId("video");
const NEVER_MS = 5000; // that a browser takes for the first picture of a file which it can play

function play(chosen) {
  if (video.src) URL.revokeObjectURL(video.src);
  showFilm(false);
  const src = (video.src = URL.createObjectURL(chosen));
  const { film } = content.videos.video;
  byId("at").max = film.length - 1;
  byId("at").hidden = film.length === 1;
  turnTo(0);
  setTimeout(() => { if (video.src === src && video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) showFilm(true); }, NEVER_MS);
}

function showFilm(on) {
  byId("film").hidden = !on;
  video.hidden = on;
  if (on) video.pause();
}

function turnTo(index) {
  const { film } = content.videos.video;
  const [frame, jpeg] = film[index];
  const time = seconds(frame / content.fps);
  byId("at").value = index;
  byId("at").setAttribute("aria-valuetext", time);
  byId("still").src = "data:image/jpeg;base64," + jpeg;
  byId("still").alt = `the frame at ${time}`;
}

function seek(time) {
  video.currentTime = time;
  const { film } = content.videos.video;
  turnTo(Math.max(0, film.findIndex(([frame], i) => i === film.length - 1 || film[i + 1][0] > time * content.fps)));
}

// A video whose sound alone can be played has no size.
video.addEventListener("loadeddata", () => showFilm(!video.videoWidth));
video.addEventListener("error", () => showFilm(true));
video.addEventListener("timeupdate", () => { if (!video.paused) showAt(video.currentTime); });
byId("at").addEventListener("input", (event) => {
  const index = Number(event.target.value);
  turnTo(index);
  showAt(content.videos.video.film[index][0] / content.fps);
});

byId("question").addEventListener("submit", ask);
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("sought").value;
  find(text, JSON.stringify({ text }));
});
byId("like").addEventListener("change", (event) => {
  const [picture] = event.target.files;
  const type = picture?.type.startsWith("image/") ? picture.type : "image/unknown";
  if (picture) find(picture.name, picture, { "Content-Type": type });
  event.target.value = "";
});
byId("cancel").addEventListener("click", giveUp);
byId("segments").addEventListener("change", caption);
byId("file").addEventListener("change", (event) => {
  if (!event.target.files.length) return;
  file = event.target.files[0];
  event.target.value = ""; // so that the same file is a change the next time
  caption();
});
for (const name of ["dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    if (event.target === byId("like")) return; // which takes what is dropped on it
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) { file = event.dataTransfer.files[0]; caption(); }
  });
addEventListener("pagehide", giveUp);
