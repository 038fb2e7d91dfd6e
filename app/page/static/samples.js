// The pictures of a job on its way, one at a time: the newest, unless the reader chose another.
import { find, findAll, make } from "./core.js";

const title = (name) => String(name).split("/").pop().replace(/\.png$/, "").replace(/[_-]/g, " ");

export class Samples {
  constructor(card) {
    this.card = card;
    this.chosen = null;
    this.buttons = new Map();
    for (const figure of this.figures()) this.offer(figure.dataset.name);
    this.choose(this.figures().at(-1)?.dataset.name);
  }

  figures() {
    return findAll("#samples > figure", this.card);
  }

  /** A picture is there, or a newer one of the same name. */
  show({ name, url, images }) {
    if (typeof url !== "string" || !url.startsWith("/")) return; // only what this service serves
    let figure = this.figures().find((each) => each.dataset.name === name);
    if (!figure) {
      const picture = make("img", { alt: `${title(name)}: one row for each class` });
      figure = make("figure", {}, make("a", {}, picture), make("figcaption"));
      figure.dataset.name = name;
      find("#samples", this.card).append(figure);
      this.offer(name);
      if (!this.chosen) this.choose(name);
    }
    // in place only when it is loaded, so that nothing flickers
    const fresh = new Image();
    fresh.addEventListener("load", () => { find("img", figure).src = fresh.src; });
    fresh.src = url;
    find("a", figure).href = url;
    const number = Number.isInteger(images) ? `, ${images.toLocaleString()} images` : "";
    find("figcaption", figure).replaceChildren(make("bdi", {}, title(name)), number);
    this.card.hidden = false;
    if (!this.chosen) this.choose(this.figures().at(-1).dataset.name);
  }

  offer(name) {
    if (this.buttons.has(name)) return;
    const button = make("button", { type: "button" }, title(name));
    button.addEventListener("click", () => {
      this.chosen = name;
      this.choose(name);
    });
    this.buttons.set(name, button);
    find("#samples-tabs", this.card).append(button);
  }

  choose(name) {
    for (const figure of this.figures()) figure.hidden = figure.dataset.name !== name;
    for (const [each, button] of this.buttons) button.setAttribute("aria-pressed", String(each === name));
  }
}
