// A job as it runs: one event stream drives the bar, the curves, the samples and the log; parts
// that change seldom are fetched again from the server, which alone decides what they say.
import { ask, dress, find, findAll, newKey, refresh, remaining, toast } from "./core.js";
import { Chart } from "./chart.js";
import { Log } from "./log.js";
import { Samples } from "./samples.js";

const root = find("#job");
const id = root.dataset.id;
const PARTS = ["part-head", "part-notes", "part-steps", "part-now", "part-facts"];
const charts = new Map();
const samples = new Samples(find("#samples-card"));
const log = new Log(find("#log"), find("#log-filter"));
const titles = new Map(findAll("#part-steps li").map((li) => [li.id.slice(5), find(".step-title span", li).firstChild.textContent]));
let stream = null;
let isEnded = !isActive();

function isActive() {
  return ["queued", "running", "canceling"].includes(find("#part-head").dataset.status);
}

// --- parts from the server, at most one request at a time
let refreshing = null;
let isStale = false;
async function refreshParts() {
  if (refreshing) {
    isStale = true;
    return refreshing;
  }
  refreshing = refresh(PARTS).catch(() => false); // away for a moment: the stream asks again
  await refreshing;
  refreshing = null;
  if (isStale) {
    isStale = false;
    await refreshParts();
  }
  return undefined;
}

// --- progress
function showProgress(progress) {
  const bar = find("#now-bar");
  if (!bar || !progress) return;
  const value = Math.max(Number(progress.value) || 0, 0);
  bar.value = value;
  const percent = value >= 0.995 && value < 1 ? 99 : Math.round(100 * value);
  find("#now-percent").textContent = `${percent} %`;
  if (progress.phase) find("#now-phase").textContent = titles.get(progress.phase) || progress.phase;
  const steps = progress.total > 1 ? `${progress.step} of ${progress.total}` : "";
  find("#now-message").textContent = [progress.message, steps].filter(Boolean).join(", ");
  find("#now-left").textContent = remaining(progress.eta_seconds);
  document.title = document.title.replace(/^(\d+ % · )?/, `${percent} % · `);
}

// --- curves
const placeOf = (phase, group) => (Number.isInteger(group) ? `${phase}, group ${group + 1}` : phase);

function chartOf(phase, name) {
  const key = `${phase}\n${name}`;
  if (!charts.has(key)) {
    const chart = new Chart(phase, name);
    chart.options = { isSmooth: find("#smooth").checked, isLog: find("#log-axis").checked };
    charts.set(key, chart);
    const drawn = findAll("#curves > figure").find((figure) => figure.dataset.phase === phase && figure.dataset.name === name);
    if (drawn) drawn.replaceWith(chart.root);
    else find("#curves").append(chart.root);
    find("#curves-card").hidden = false;
  }
  return charts.get(key);
}

const unpainted = new Set();
function paint(chart) {
  if (!unpainted.size) {
    requestAnimationFrame(() => {
      unpainted.forEach((each) => each.render());
      unpainted.clear();
    });
  }
  unpainted.add(chart);
}

function addMetric({ phase: stage, group, step, values }) {
  const phase = placeOf(stage, group); // class groups that train side by side have curves of their own
  for (const [name, value] of Object.entries(values || {})) {
    if (!Number.isFinite(value) || (value === 0 && !charts.has(`${phase}\n${name}`))) continue; // a term that is off
    const chart = chartOf(phase, name);
    chart.add(step, value);
    paint(chart);
  }
}

async function loadCurves() {
  const { series } = await ask("GET", `/jobs/${id}/metrics`);
  for (const { phase: stage, group, name, steps, values } of series) {
    const phase = placeOf(stage, group);
    const points = steps.map((step, i) => [step, values[i]]).filter(([, value]) => Number.isFinite(value));
    if (!points.some(([, value]) => value) || (points.length < 2 && !isActive())) continue;
    const chart = chartOf(phase, name);
    chart.points = points;
    paint(chart);
  }
}

for (const [box, option] of [["#smooth", "isSmooth"], ["#log-axis", "isLog"]]) {
  find(box).addEventListener("change", (event) => {
    for (const chart of charts.values()) {
      chart.options[option] = event.target.checked;
      paint(chart);
    }
  });
}

// --- the stream
function take(kind, event) {
  const data = JSON.parse(event.data);
  const seq = Number(event.lastEventId) || 0;
  if (kind === "progress") showProgress(data.progress || data);
  else if (kind === "metric") addMetric(data);
  else if (kind === "preview") samples.show(data);
  else {
    log.add(kind, data, seq, titles);
    refreshParts();
  }
}

function connect() {
  if (stream) stream.close();
  stream = new EventSource(`/jobs/${id}/events`);
  stream.addEventListener("snapshot", (event) => {
    const job = JSON.parse(event.data);
    if (job.status !== find("#part-head").dataset.status) refreshParts();
    showProgress(job.progress);
    catchUp();
  });
  for (const kind of ["status", "progress", "metric", "stage", "preview", "log"]) {
    stream.addEventListener(kind, (event) => take(kind, event));
  }
  stream.addEventListener("done", async () => {
    stream.close();
    stream = null;
    isEnded = true;
    await refreshParts();
    while (refreshing) await refreshing;
    loadCurves().catch(() => {});
    if (isActive() && !stream) { // an earlier end, told again: the job was retried since
      isEnded = false;
      connect();
    }
  });
}

/** Lines and pictures between the page and the stream's first event are asked for once. */
async function catchUp() {
  try {
    const { data } = await ask("GET", `/jobs/${id}/events?after=${root.dataset.seq}`);
    for (const { seq, kind, at, data: content } of data) {
      if (["status", "stage", "log"].includes(kind)) log.add(kind, content, seq, titles, at);
      else if (kind === "preview") samples.show(content);
    }
  } catch {
    // the stream brings what follows
  }
}

/** Where no stream is to be had (too many are open), and for the place in the queue: ask again. */
setInterval(() => {
  if (isEnded || document.hidden) return;
  const isWaiting = find("#part-head").dataset.status === "queued";
  const isCut = !stream || stream.readyState === EventSource.CLOSED;
  if (isWaiting || isCut) refreshParts().then(() => { isEnded = !isActive(); });
  if (isCut) loadCurves().catch(() => {});
}, 4000);

// --- what can be done
const dialog = find("#confirm");
function confirmed() {
  return new Promise((resolve) => {
    dialog.returnValue = "no";
    dialog.showModal();
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function act(action, button) {
  if (action === "delete" && !(await confirmed())) return;
  button.disabled = true;
  try {
    if (action === "delete") {
      await ask("DELETE", `/jobs/${id}`);
      location.assign("/");
      return;
    }
    await ask("POST", `/jobs/${id}/${action}`, { key: newKey() });
    if (action === "cancel") toast("Canceled jobs keep their checkpoint: a retry goes on from there");
    await refreshParts();
    if (action === "retry") {
      isEnded = false;
      connect();
    }
  } catch (error) {
    toast(error.message, "bad");
    await refreshParts();
  } finally {
    button.disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-action]");
  if (button) act(button.dataset.action, button);
});

dress();
log.toEnd();
loadCurves().catch(() => {}); // the server's drawing stays
if (!isEnded) connect();
window.addEventListener("pagehide", () => stream?.close());
window.addEventListener("pageshow", (event) => {
  if (event.persisted && !isEnded) connect();
});
