// The log of a job: the same words as `log_line` in job_routes.py, filtered, followed to its end.
import { duration, find, findAll, make } from "./core.js";

const MAX_LINES = 500;

/** Level and text of an event, null where the log does not tell it. */
export function logText(kind, data, titles) {
  const title = (name) => titles.get(name) || name || "";
  if (kind === "log") return [data.level || "info", data.message || ""];
  if (kind === "stage") {
    if (data.status === "running") return ["stage", title(data.name)];
    const took = data.seconds === null || data.seconds === undefined ? "" : ` (${duration(data.seconds)})`;
    return ["info", `${title(data.name)}: ${data.summary || data.status || ""}${took}`];
  }
  if (kind === "status" && !(data.phase && data.status === "running")) return ["stage", `job ${data.status}`];
  return null;
}

export class Log {
  constructor(list, filter) {
    this.list = list;
    this.filter = filter;
    this.seen = new Set(findAll("li", list).map((line) => Number(line.dataset.seq)));
    filter.addEventListener("input", () => this.sift());
  }

  add(kind, data, seq, titles, at) {
    const line = logText(kind, data, titles);
    if (!line || this.seen.has(seq)) return;
    this.seen.add(seq);
    const [level, text] = line;
    const moment = at ? new Date(at) : new Date();
    const time = make("time", { dateTime: moment.toISOString(), title: moment.toLocaleString() }, moment.toLocaleTimeString([], { hour12: false }));
    const row = make("li", { class: level }, time, make("span", {}, make("bdi", {}, text)));
    row.dataset.seq = seq;
    const isAtEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    const next = findAll("li", this.list).find((other) => Number(other.dataset.seq) > seq);
    this.list.insertBefore(row, next || null);
    while (this.list.children.length > MAX_LINES) this.list.firstElementChild.remove();
    this.sift();
    if (isAtEnd) this.toEnd();
  }

  sift() {
    const wanted = this.filter.value.trim().toLowerCase();
    for (const row of findAll("li", this.list)) row.hidden = !find("bdi", row).textContent.toLowerCase().includes(wanted);
  }

  toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }
}
