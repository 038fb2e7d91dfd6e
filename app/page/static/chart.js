// A loss curve that grows: raw values faint, their running mean on top, the value under the pointer.
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [320, 132, 44, 8, 8, 22];
const MAX_POINTS = 400;

const draw = (tag, attributes, text) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

export const figure = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e5 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
};

/** At most `limit` points: of each stretch the lowest and the highest, so that no spike is lost. */
export function thin(points, limit = MAX_POINTS) {
  if (points.length <= limit) return points;
  const kept = [];
  const stretches = limit / 2;
  for (let i = 0; i < stretches; i += 1) {
    const stretch = points.slice(Math.floor((i * points.length) / stretches), Math.floor(((i + 1) * points.length) / stretches));
    let [low, high] = [stretch[0], stretch[0]];
    for (const point of stretch) {
      if (point[1] < low[1]) low = point;
      if (point[1] > high[1]) high = point;
    }
    kept.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
  }
  return kept;
}

/** The running mean over a share of the curve's length. */
export function smoothed(points) {
  const decay = 1 - Math.min(1, 12 / Math.max(points.length, 12));
  let [sum, weight] = [0, 0];
  return points.map(([step, value]) => {
    sum = decay * sum + (1 - decay || 1) * value;
    weight = decay * weight + (1 - decay || 1);
    return [step, sum / weight];
  });
}

export class Chart {
  constructor(phase, name) {
    this.points = [];
    this.options = { isSmooth: true, isLog: false };
    this.root = document.createElement("figure");
    this.root.dataset.phase = phase;
    this.root.dataset.name = name;
    const caption = document.createElement("figcaption");
    const title = document.createElement("span");
    const muted = document.createElement("span");
    muted.className = "muted";
    muted.textContent = phase;
    title.append(muted, ` ${name.replaceAll("_", " ")}`);
    this.value = document.createElement("span");
    this.value.className = "n";
    caption.append(title, this.value);
    this.label = `${phase} ${name}`;
    this.svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.root.append(caption, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
  }

  add(step, value) {
    const last = this.points.at(-1);
    if (last && step <= last[0]) this.points = this.points.filter(([known]) => known < step); // a stage began again
    this.points.push([step, value]);
  }

  render() {
    const { isSmooth, isLog } = this.options;
    const usable = isLog ? this.points.filter(([, value]) => value > 0) : this.points;
    const raw = thin(usable);
    this.svg.replaceChildren();
    this.shown = null;
    if (raw.length < 2) {
      this.svg.append(draw("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, raw.length ? "waiting for the second value" : "no value above zero"));
      return;
    }
    const scale = isLog ? Math.log10 : (value) => value;
    const back = isLog ? (value) => 10 ** value : (value) => value;
    const values = raw.map(([, value]) => scale(value));
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (high - low < 1e-12) [low, high] = [low - 0.5 * Math.max(Math.abs(low), 1e-3), high + 0.5 * Math.max(Math.abs(high), 1e-3)];
    const [first, last] = [raw[0][0], Math.max(raw.at(-1)[0], raw[0][0] + 1)];
    const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * (step - first)) / (last - first);
    const y = (value) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - scale(value))) / (high - low);
    for (const mark of [low, (low + high) / 2, high]) {
      const height = y(back(mark));
      this.svg.append(draw("path", { class: "grid", d: `M${LEFT} ${height}H${WIDTH - RIGHT}` }), draw("text", { x: LEFT - 6, y: height + 4, "text-anchor": "end" }, figure(back(mark))));
    }
    const path = (points) => points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const hasMean = isSmooth && raw.length > 8;
    this.svg.append(draw("polyline", { class: hasMean ? "line raw" : "line", points: path(raw) }));
    const mean = hasMean ? thin(smoothed(usable)) : raw;
    if (hasMean) this.svg.append(draw("polyline", { class: "line", points: path(mean) }));
    this.svg.append(draw("text", { x: LEFT, y: HEIGHT - 4 }, String(first)), draw("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, `step ${raw.at(-1)[0]}`));
    this.shown = { usable, x, y, first, last };
    this.value.textContent = figure(mean.at(-1)[1]);
    this.svg.setAttribute("aria-label", `${this.label}: ${figure(mean.at(-1)[1])} at step ${raw.at(-1)[0]}`);
  }

  point(event) {
    this.svg.querySelectorAll(".cursor, .cursor-dot, .cursor-text").forEach((element) => element.remove());
    if (!event || !this.shown) return;
    const box = this.svg.getBoundingClientRect();
    const { usable, x, y, first, last } = this.shown;
    const step = first + ((((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT)) * (last - first);
    const near = usable.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
    const place = x(near[0]);
    const isRight = place > WIDTH * 0.6;
    this.svg.append(
      draw("path", { class: "cursor", d: `M${place} ${TOP}V${HEIGHT - BOTTOM}` }),
      draw("circle", { class: "cursor-dot", cx: place, cy: y(near[1]), r: 4 }),
      draw("text", { class: "cursor-text", x: place + (isRight ? -8 : 8), y: TOP + 8, "text-anchor": isRight ? "end" : "start" }, `${figure(near[1])} at ${near[0]}`),
    );
  }
}
