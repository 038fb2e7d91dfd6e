// The form of a new job: every change is kept in the address, shown as commands, and estimated.
import { ask, find, findAll, make, newKey, size, toast } from "./core.js";
import { commandsOf } from "./commands.js";
import { addUpload } from "./upload.js";

const form = find("#new");
const WAIT_MS = 700;
const AGAIN_MS = 5000;
const titles = JSON.parse(find("#estimate").dataset.titles);
const hasKey = find("#same code").textContent.includes("DISTILLERY_API_KEY");

// --- from the fields to the body of the request
const assign = (body, path, value) => {
  const names = path.split(".");
  const last = names.pop();
  let place = body;
  for (const name of names) {
    place[name] ??= {};
    if (typeof place[name] !== "object") throw new Error(`${path}: ${name} is a value and has no fields`);
    place = place[name];
  }
  place[last] = value;
};

const parse = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return text; // plain text
  }
};

function dataset() {
  const chosen = find("input[name=dataset]:checked", form);
  return chosen?.id === "dataset-other" ? find("#other").value.trim() : chosen?.value || "digits";
}

/** The body of the request, and the address that brings this form back. */
function read() {
  const [body, query] = [{ dataset: dataset() }, new URLSearchParams()];
  query.set("dataset", body.dataset);
  const ipc = find("#ipc").value;
  body.ipc = ipc === "" ? null : Number(ipc);
  query.set("ipc", ipc);
  const preset = find("input[name=preset]:checked", form).value;
  if (preset !== "default") {
    body.preset = preset;
    query.set("preset", preset);
  }
  const name = find("#name").value.trim();
  if (name) {
    body.name = name;
    query.set("name", name);
  }
  for (const field of findAll("[data-path]", form)) {
    const text = field.value.trim();
    if (!text) continue;
    const isWord = field.type !== "number" && field.tagName !== "SELECT";
    assign(body, field.dataset.path, isWord ? text : parse(text));
    query.set(field.dataset.path, text);
  }
  for (const line of find("#others").value.split("\n").map((each) => each.trim()).filter(Boolean)) {
    const [path, ...rest] = line.split("=");
    if (!rest.length || !path.trim()) throw new Error(`write one field=value a line, for example refine.num_steps=40, not ${line}`);
    assign(body, path.trim(), parse(rest.join("=").trim()));
    query.append("set", line);
  }
  if (find("#licence").checked) body.acknowledge_licence = true;
  return { body, query };
}

// --- errors beside their fields
function showErrors(problem) {
  for (const box of findAll(".field-error", form)) box.hidden = true;
  for (const field of findAll("[aria-invalid]", form)) field.removeAttribute("aria-invalid");
  if (!problem) return;
  if (problem.code === "license_not_accepted") askLicence(problem.message);
  const left = [];
  for (const { pointer, parameter, detail } of problem.errors.length ? problem.errors : [{ detail: problem.message }]) {
    const path = (pointer || parameter || "").replace(/^#?\//, "").replaceAll("/", ".");
    if (path === "acknowledge_licence") continue;
    const box = findAll(".field-error", form).find((each) => each.dataset.for && (path === each.dataset.for || path.startsWith(`${each.dataset.for}.`)));
    if (!box) {
      left.push(path ? `${path}: ${detail}` : detail);
      continue;
    }
    box.textContent = detail;
    box.hidden = false;
    const field = find(`[data-path="${CSS.escape(path)}"]`, form) || document.getElementById(path);
    field?.setAttribute("aria-invalid", "true");
    if (box.closest("details")) box.closest("details").open = true;
  }
  find("#form-error").textContent = left.join("; ");
  find("#form-error").hidden = !left.length;
}

function askLicence(text) {
  find("#licence-text").textContent = `I know this: ${text.split(": send")[0]}.`; // the rest is for programs
  find("#licence-row").hidden = false;
}

// --- the estimate
let asked = null;
let timer = 0;

const rough = (seconds) => (seconds < 60 ? `${Math.max(Math.round(seconds), 1)} s` : seconds < 3600 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);

function showEstimate(estimate) {
  const { seconds, stages = [], memory = {}, disk = {}, download_bytes: download, licence, non_commercial: isLimited, config, warnings = [], decisions = [], dataset: facts = {} } = estimate;
  const longest = Math.max(...stages.map((stage) => stage.seconds), 0.001);
  const bars = stages.filter((stage) => stage.seconds > 0).map((stage) => {
    const bar = make("progress", { max: longest, value: stage.seconds });
    bar.setAttribute("aria-hidden", "true");
    return make("li", { title: stage.basis || "" }, make("span", {}, titles[stage.name] || stage.name), bar, make("span", { class: "n" }, rough(stage.seconds)));
  });
  const rows = [];
  if (facts.images) rows.push(["data", `${facts.images.toLocaleString()} images, ${facts.classes} classes`]);
  rows.push(["memory", size(memory.bytes ?? 0)], ["disk", size(disk.bytes ?? 0)]);
  if (download) rows.push(["download", size(download)]);
  if (isLimited && !find("#licence").checked) askLicence(`the licence of ${config.base.reference}, ${licence}, forbids commercial use and the result inherits it`);
  rows.push(["licence", licence || "that of your images"]);
  for (const { what, choice, reason } of decisions) rows.push([what, choice, reason]);
  const list = make("dl", { class: "facts small" });
  for (const [name, value, reason] of rows) list.append(make("dt", {}, name), make("dd", { title: reason || "" }, make("bdi", {}, value)));
  const range = seconds.low === seconds.high ? "" : `${rough(seconds.low)} to ${rough(seconds.high)}`;
  find("#estimate-body").replaceChildren(
    make("p", { class: "estimate-time" }, `about ${rough(seconds.expected)}`),
    make("p", { class: "muted small" }, [range, estimate.device && `on ${estimate.device === "cpu" ? "the CPU" : estimate.device}`].filter(Boolean).join(", ")),
    make("ul", { class: "estimate-bars" }, ...bars),
    ...warnings.map((text) => make("p", { class: "notice flat small" }, make("bdi", {}, text))),
    list,
  );
}

async function estimate() {
  asked?.abort();
  const mine = new AbortController();
  asked = mine;
  const wait = find("#estimate-wait");
  wait.hidden = false;
  const body = find("#estimate-body");
  body.classList.add("old"); // what stands there is of an earlier request
  if (!find(".estimate-time", body)) body.replaceChildren(make("p", { class: "muted" }, "Looking at the images and timing small networks."));
  try {
    const found = await ask("POST", "/estimates", { body: read().body, signal: mine.signal });
    if (asked !== mine) return;
    showErrors(null);
    showEstimate(found);
  } catch (error) {
    if (error.name === "AbortError" || asked !== mine) return;
    if ([0, 429, 503].includes(error.status)) { // busy or away: nothing is wrong with the request
      find("#estimate-body").replaceChildren(make("p", { class: "muted" }, `No estimate yet, asking again: ${error.message}.`));
      timer = setTimeout(estimate, AGAIN_MS);
      return;
    }
    find("#estimate-body").replaceChildren(make("p", { class: "muted" }, "No estimate yet: the request needs attention."));
    showErrors(error.errors ? error : { message: error.message, errors: [] });
  } finally {
    if (asked === mine) {
      wait.hidden = true;
      find("#estimate-body").classList.remove("old");
    }
  }
}

function changed() {
  for (const chip of findAll("[data-ipc]")) chip.setAttribute("aria-pressed", String(chip.dataset.ipc === find("#ipc").value));
  find("#other-row").hidden = !find("#dataset-other").checked;
  try {
    const { body, query } = read();
    history.replaceState(null, "", `/new?${query}`);
    findAll("#same code").forEach((code, i) => { code.textContent = commandsOf(body, location.origin, hasKey)[i]; });
  } catch (error) {
    showErrors({ message: "", errors: [{ pointer: "/others", detail: error.message }] });
    return;
  }
  clearTimeout(timer);
  timer = setTimeout(estimate, WAIT_MS);
}

form.addEventListener("input", (event) => {
  if (event.target.id === "archive") return;
  if (event.target.id !== "licence" && !find("#licence").checked) find("#licence-row").hidden = true;
  changed();
});
form.addEventListener("click", (event) => {
  const chip = event.target.closest?.("[data-ipc]");
  if (!chip) return;
  find("#ipc").value = chip.dataset.ipc;
  changed();
});

// --- submit; one key for one state of the form, so that a second click is the same request
let key = newKey();
let keyBody = "";
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = find("#submit");
  button.disabled = true;
  try {
    const { body } = read();
    if (JSON.stringify(body) !== keyBody) [key, keyBody] = [newKey(), JSON.stringify(body)];
    const job = await ask("POST", "/jobs", { body, key });
    location.assign(job.urls?.page || `/ui/jobs/${job.id}`);
  } catch (error) {
    button.disabled = false;
    showErrors(error.errors ? error : { message: error.message, errors: [] });
    find(".field-error:not([hidden])", form)?.scrollIntoView({ block: "center" });
    toast(error.message, "bad");
  }
});

addUpload(changed);
changed();
