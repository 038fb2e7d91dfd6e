// What every page needs: requests, parts of the page that are fetched again, copying, times.
// Text from jobs is only ever set as text, never as markup.

export const find = (selector, root = document) => root.querySelector(selector);
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Make an element with properties and children; strings become text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A refusal of the service: a problem document, or the network's silence. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || (status ? `the service answered ${status}` : "the service cannot be reached"));
    this.status = status;
    this.code = body?.code || "";
    this.errors = body?.errors || [];
  }
}

/** A key that makes repeating a request safe; `randomUUID` is missing on plain http. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Ask the API; throws `Problem`. */
export async function ask(method, path, { body, signal, key } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, null);
  }
  if (response.status === 401) location.assign("/login");
  const text = await response.text();
  let content = null;
  try {
    content = text ? JSON.parse(text) : null;
  } catch {
    content = null; // not ours: the status says enough
  }
  if (!response.ok) throw new Problem(response.status, content);
  return content;
}

/** Show a short message in the corner. */
export function toast(text, tone = "") {
  const box = make("p", { class: `toast ${tone}` }, text);
  find("#toasts").append(box);
  setTimeout(() => box.remove(), tone === "bad" ? 9000 : 4000);
}

/** Fetch this page again and put the parts with these ids in place; says whether all were there. */
export async function refresh(ids) {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (response.status === 401 || (response.redirected && new URL(response.url).pathname === "/login")) {
    location.assign("/login");
    return false;
  }
  if (!response.ok) return false;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  document.title = fresh.title;
  let found = true;
  for (const id of ids) {
    const [old, part] = [document.getElementById(id), fresh.getElementById(id)];
    if (old && part) merge(old, document.importNode(part, true));
    else found = false;
  }
  dress();
  return found;
}

/** Change `old` into `fresh` where they differ, so that focus and pictures stay. */
function merge(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const isLeaf = !old.children.length || !fresh.children.length || old.tagName === "svg";
  if (old.tagName !== fresh.tagName || isLeaf) {
    if (old.tagName !== fresh.tagName || old.innerHTML !== fresh.innerHTML) {
      old.replaceWith(fresh);
      return;
    }
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.tagName === "PROGRESS") old.value = Number(fresh.getAttribute("value"));
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  const key = (node) => `${node.nodeName}#${node.id || ""}`;
  const isSame = before.length === after.length && before.every((node, i) => key(node) === key(after[i]));
  if (isSame) {
    before.forEach((node, i) => {
      if (node.nodeType === Node.ELEMENT_NODE) merge(node, after[i]);
      else if (node.nodeValue !== after[i].nodeValue) node.nodeValue = after[i].nodeValue;
    });
    return;
  }
  const known = new Map(before.filter((node) => node.id).map((node) => [node.id, node]));
  old.replaceChildren(...after.map((node) => {
    const kept = node.id && known.get(node.id);
    if (!kept) return node;
    merge(kept, node);
    return kept.parentNode === old || !kept.parentNode ? kept : node;
  }));
}

const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const STEPS = [["day", 86400], ["hour", 3600], ["minute", 60]];

/** How long ago a moment was, as the reader's language says it. */
export function ago(then, now = Date.now()) {
  const seconds = (now - then) / 1000;
  if (seconds < 45) return "just now";
  if (seconds > 14 * 86400) return new Date(then).toLocaleDateString(undefined, { dateStyle: "medium" });
  const [unit, size] = STEPS.find(([, size]) => seconds >= 0.99 * size) || STEPS[2];
  return relative.format(-Math.max(Math.round(seconds / size), 1), unit);
}

/** A time span: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 10 min`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.floor((whole % 3600) / 60);
  return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
}

/** How long something will take, no finer than it can be known. */
export function remaining(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 5) return "a few seconds left";
  if (seconds < 60) return `about ${5 * Math.round(seconds / 5)} s left`;
  if (seconds < 3600) return `about ${Math.round(seconds / 60)} min left`;
  return `about ${(seconds / 3600).toFixed(1)} h left`;
}

/** A number of bytes. */
export function size(bytes) {
  for (const [unit, factor] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= factor) return `${(bytes / factor).toFixed(bytes / factor < 9.95 ? 1 : 0)} ${unit}`;
  }
  return `${Math.round(bytes)} B`;
}

/** Bring times into the reader's own zone and words, and running spans up to date. */
export function dress(root = document) {
  for (const time of findAll("time[data-ago]", root)) {
    const moment = new Date(time.dateTime);
    time.textContent = ago(moment);
    time.title = moment.toLocaleString();
  }
  for (const time of findAll("time[data-clock]", root)) {
    time.textContent = new Date(time.dateTime).toLocaleTimeString([], { hour12: false });
  }
  for (const span of findAll("[data-since]", root)) {
    span.textContent = duration((Date.now() - new Date(span.dataset.since)) / 1000);
  }
}

/** Copy text; without a secure context the clipboard is reached through a selection. */
async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text, class: "sr" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return undefined;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  const code = button.closest(".code")?.querySelector("code");
  try {
    await copyText(code ? code.textContent : button.dataset.copy);
    button.classList.add("copied");
    toast("Copied");
    setTimeout(() => button.classList.remove("copied"), 1500);
  } catch {
    toast("The browser did not allow copying: select the text instead", "bad");
  }
});

/** Turn blocks with titles into tabs that arrow keys move through. */
export function makeTabs(root) {
  const [row, tabs] = [find(".tab-buttons", root), findAll(".tab", root)];
  const choose = (index, hasFocus) => {
    tabs.forEach((tab, i) => {
      tab.hidden = i !== index;
      row.children[i].setAttribute("aria-selected", String(i === index));
      row.children[i].tabIndex = i === index ? 0 : -1;
    });
    if (hasFocus) row.children[index].focus();
  };
  tabs.forEach((tab, i) => {
    tab.setAttribute("role", "tabpanel");
    tab.setAttribute("aria-label", tab.dataset.title);
    const button = make("button", { type: "button", role: "tab" }, tab.dataset.title);
    button.addEventListener("click", () => choose(i, false));
    button.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (move) choose((i + move + tabs.length) % tabs.length, true);
    });
    row.append(button);
  });
  if (tabs.length) choose(0, false);
}

findAll("[data-tabs]").forEach(makeTabs);
dress();
setInterval(dress, 1000);
