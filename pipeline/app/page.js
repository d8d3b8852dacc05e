// What was captioned last; film.js reads it.
let content = JSON.parse(byId("content").textContent);
let file = null;
let current = null;

byId("ran").textContent = `Model: ${content.variant}.`;

async function caption() {
  if (!file) return;
  const started = Date.now();
  const clock = setInterval(() => say(`Captioning ${file.name} … ${((Date.now() - started) / 1000).toFixed(0)} s`), 200);
  byId("result").hidden = true;
  try {
    const answer = await fetch("/caption?segments=" + byId("segments").value, { method: "POST", body: file });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    content = told;
    showResult(((Date.now() - started) / 1000).toFixed(1));
  } catch (error) {
    say(`No captions: ${error.message}`, true);
  } finally {
    clearInterval(clock);
  }
}

function say(text, failed = false) {
  byId("state").textContent = text;
  byId("state").classList.toggle("failed", failed);
}

function showResult(took) {
  const { segments, videos } = content;
  say(`${file.name}: ${segments.length} ${segments.length === 1 ? "segment" : "segments"} of ${seconds(videos.video.duration)}, in ${took} s`);
  byId("result").hidden = false;
  const video = byId("video");
  if (video.src) URL.revokeObjectURL(video.src);
  video.src = URL.createObjectURL(file);
  byId("captions").replaceChildren(...segments.map((segment) => make("li", {},
    make("button", { type: "button", onclick: () => { show(segment); video.currentTime = segment.start; } },
      make("span", { class: "when" }, `${seconds(segment.start)} – ${seconds(segment.end)}`),
      make("span", {}, segment.captions[0].text || "(no words)")))));
  show(segments[0]);
}

function show(segment) {
  if (segment === current) return;
  current = segment;
  [...byId("captions").children].forEach((row, i) =>
    row.toggleAttribute("aria-current", content.segments[i] === segment));
  const { remembers } = content.runs[0];
  byId("segment").replaceChildren(
    make("div", { class: "head" }, make("strong", {}, segment.captions[0].text || "(no words)"),
      make("span", {}, `${seconds(segment.start)} to ${seconds(segment.end)}`)),
    filmOf(segment, remembers ? 0 : null)
  );
}

byId("video").addEventListener("timeupdate", (event) => {
  const at = event.target.currentTime;
  const now = content.segments.find((segment) => segment.start <= at && at < segment.end);
  if (now && !event.target.paused) show(now);
});
byId("file").addEventListener("change", (event) => { file = event.target.files[0] ?? file; caption(); });
byId("segments").addEventListener("change", caption);
for (const name of ["dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) { file = event.dataTransfer.files[0]; caption(); }
  });
